"""From records to verdicts: intervals, tests and power; what a study found, in numbers and words; audits of tables."""
