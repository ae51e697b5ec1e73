"""``python -m sslmanifold``."""

from sslmanifold.cli import main

if __name__ == "__main__":
    main()
