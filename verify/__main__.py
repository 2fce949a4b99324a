"""`python -m verify`."""

from verify.main import main

if __name__ == "__main__":
    main()
