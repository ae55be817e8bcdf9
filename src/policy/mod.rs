//! Policy: which archives stay, when a request is due, what its deadline is. Pure functions of facts and a `now`: no I/O, no
//! clock of their own, so that every rule can be tested against any calendar and any clock that jumps.

pub mod clocks;
pub mod period;
pub mod retention;

pub use clocks::{Deadline, DeadlineStatus, ErasurePolicy, Kind, Mode, Request, State, Transition};
pub use period::Period;
pub use retention::{Facts, Keep, Retention, Verdict};
