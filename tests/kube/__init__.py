"""A Kubernetes API server for tests: real HTTP on loopback, the semantics an adapter meets, faults by script. See README.md."""
