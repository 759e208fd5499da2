"""A command with an argument and an option."""

import click


@click.command()
@click.argument("name")
@click.option("--times", default=2)
def main(name, times):
    for _ in range(times):
        click.echo(f"Hello, {name}!")


if __name__ == "__main__":
    main()
