"""Loading as a job."""
