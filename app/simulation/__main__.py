"""`python -m app.simulation`: the command `riskwire simulate-faults`."""

from app.simulation_cli import main

if __name__ == "__main__":
    main()
