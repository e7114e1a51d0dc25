"""What a conversation is made of: its turns, and who asks for the next one."""
