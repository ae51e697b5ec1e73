"""The paper's figures, one file each: what is trained or solved, what it says, and how it is drawn."""
