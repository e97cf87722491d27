"""What a conversion channel does with messages: their parts, commands, and what is built in."""
