"""Kill (SIGKILL) each kind of process under load, and check the invariants afterwards."""
