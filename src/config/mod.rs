//! `reseal.yaml`: raw form → resolved form, every mistake with file, line and column. A configuration that loads can be worked with.

pub mod load;
mod place;
pub mod raw;
pub mod resolved;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod yaml;

pub use load::{is_dataset_name, load, parse};
pub use resolved::{Config, Dataset, Drill, DrillCheck, RepositoryAt, Root, Source};

/// The JSON Schema of `reseal.yaml`, for editors (`reseal schema`).
pub fn schema_json() -> serde_json::Value {
    schemars::schema_for!(raw::RawConfig).to_value()
}
