"""Choices: questions whose answer is one of a few options, such as a judge's, a router's or an agent's."""
