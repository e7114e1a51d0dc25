"""What each way of serving a prompt is expected to cost."""
