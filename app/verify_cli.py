"""The command `verify`: hands over to the independent checker, which shares nothing with `app`."""

# ruff: noqa: PLC0415 -- as in `app.cli`: what takes time to import waits until its command runs

import typer


def add(app: typer.Typer) -> None:
    """Give the command to the command line; the checker parses its own options."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=settings, add_help_option=False)(verify)


def verify(context: typer.Context) -> None:
    """State the laws of exactly-once over what Kafka and Redis hold; --help says more."""
    from verify.main import main

    main(context.args)
