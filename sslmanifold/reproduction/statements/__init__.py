"""The paper's statements as numerical checks, one file per statement or group of them."""
