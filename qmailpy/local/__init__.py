"""Mail to our own users: Maildirs and their durability."""
