//! Cards: written, read back, refused, priced.

mod mistakes;
mod price;
mod round;
mod sample;
mod schema;
