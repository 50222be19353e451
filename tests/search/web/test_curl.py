import shlex

from search.web.curl import search_command


def test_quotes_in_the_name_of_a_picture_are_quoted_for_curl() -> None:
    command = search_command("http://x/", image_names=['a "b" \\ c.png'], parameters={}, needs_key=False)
    assert shlex.split(command.replace("\\\n", ""))[2] == r'image=@"a \"b\" \\ c.png"'
