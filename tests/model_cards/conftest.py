from hub_users import hub, ours, stranger, stranger_python  # noqa: F401
