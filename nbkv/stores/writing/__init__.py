"""K/V on their way from memory to tiers, behind the back of the requests that computed them."""
