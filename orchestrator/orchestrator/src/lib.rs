//! The service orchestrator and the mandate command
