"""One instance of Postfix: its parameters, services, maps and programs."""
