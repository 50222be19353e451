import shlex

from search.web.curl import search_command


def test_quotes_in_the_name_of_a_picture_are_quoted_for_curl() -> None:
    wanted = {"top_k": 1, "min_score": None, "location": "", "needs_key": False}
    command = search_command("http://x/", image_name='a "b" \\ c.png', **wanted)  # type: ignore[arg-type]
    assert shlex.split(command.replace("\\\n", ""))[2] == r'image=@"a \"b\" \\ c.png"'
