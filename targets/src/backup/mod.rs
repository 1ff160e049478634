//! Encrypted backup files: AES-256-GCM in chunks.
