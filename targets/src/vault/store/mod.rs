//! Where accounts are kept: an embedded store, authenticated, behind an overlay in memory.
