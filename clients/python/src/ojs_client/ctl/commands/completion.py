"""``ojsctl completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ojs_client.ctl.command import Examples
from ojs_client.ctl.errors import Failed


@click.command(
    cls=Examples,
    examples="""
    completion bash > ~/.local/share/bash-completion/completions/ojsctl
    completion zsh > ~/.zfunc/_ojsctl
    completion fish > ~/.config/fish/completions/ojsctl.fish
    """,
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script with which a shell completes commands and names.

    Names of queues and cron jobs, ids of jobs and workers and other names come from the server, and
    profiles from your own file.
    """
    found = get_completion_class(shell)
    if found is None:
        raise Failed(f"no completion for {shell}")
    root = ctx.find_root().command
    click.echo(found(root, {}, "ojsctl", "_OJSCTL_COMPLETE").source())
