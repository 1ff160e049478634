//! Scenarios read, refused and written again. Data first: a text and what must come of it.
