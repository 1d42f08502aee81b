//! Placeholder of the skeleton; replaced by the part itself.
