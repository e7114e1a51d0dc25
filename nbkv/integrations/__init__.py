"""A session where an agent framework expects a model.

``nbkv.integrations.langchain`` needs ``pip install "nbkv[langchain]"``, ``nbkv.integrations.llamaindex`` needs
``pip install "nbkv[llamaindex]"``.
"""
