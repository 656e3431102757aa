"""What a report shows beside the records."""
