//! stub
use super::args::Demo;
use super::open::Context;
use crate::Result;
pub fn run(_: &Context, _: &Demo) -> Result<u8> {
    Ok(0)
}
