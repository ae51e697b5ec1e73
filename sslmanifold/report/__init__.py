"""What a person reads: tables in the terminal and pages, made from run folders alone."""
