"""Questions as versioned resources."""
