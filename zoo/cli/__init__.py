"""The command line, one file a kind of command. What is heavy is imported inside the commands: help comes at once.

================  ====================================================================
``entry``         where it begins; what becomes of every mistake
``listing``       ``models``, ``data``
``fitting``       ``fit``, ``compare``, ``explain``
``fitted``        ``evaluate``, ``sample``
``tables``        ``reproduce``, ``bench``
``task``          words of a command to a checked model, data and options
``programs``      what MODEL and --guide name
``options``       options that several commands have
``output``        what is printed
================  ====================================================================
"""

from zoo.cli.entry import app, main

__all__ = ["app", "main"]
