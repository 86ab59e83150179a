"""``python -m influx``."""

from influx.cli import main

if __name__ == "__main__":
    main()
