"""What tiers keep of a sequence as a whole, up to one position: K/V with tokens dropped, states of recurrent layers."""
