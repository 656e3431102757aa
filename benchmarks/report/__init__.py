"""What a report shows in addition to the records."""
