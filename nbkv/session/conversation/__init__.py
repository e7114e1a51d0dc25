"""What a conversation is made of: its turns, and answers without the thinking that led to them."""
