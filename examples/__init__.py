"""What the pages of docs/ show, as files that a test runs."""
