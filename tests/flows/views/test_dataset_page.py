"""The page and the table of a dataset, from profiles as hostile and as large as they may be."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path

from rich.console import Console

from flows.views.dataset import as_document, print_profile
from flows.views.dataset_page import build_page
from tests.flows.views.test_run_page import HOSTILE, Read
from trainer.data.profile.model import Camera, EpisodeFacts, Finding, Joint, Profile, Series, Still, Task
from trainer.data.profile.rules import RULES

DOCS = Path(__file__).resolve().parents[3] / "docs/data.md"


def course(shift: int, rows: int = 300) -> list[float]:
    return [math.sin(row / 20 + shift) + row * 7919 % 13 / 99 for row in range(rows)]


def a_profile(
    episodes: int = 8,
    joints: int = 6,
    cameras: int = 2,
    findings: int = 6,
    text: str = "pick the pear",
    webp: int = 3000,
) -> Profile:
    picture = random.Random(0).randbytes(webp)
    rules = [rule.name for rule in RULES]
    return Profile(
        name=text,
        robot=text,
        fps=30,
        frames=300 * episodes,
        cameras=[
            Camera(
                key=f"{text} {number}",
                source=text,
                width=640,
                height=480,
                stills=[Still(episode=row, frame=row, webp=picture) for row in range(6)],
            )
            for number in range(cameras)
        ],
        tasks=[Task(text=text, episodes=episodes, frames=300 * episodes)],
        joints=[
            Joint(kind=kind, key="arm", name=f"{text} {number}", unit=text, min=-1, q01=-0.9, mean=0.1, q99=0.8, max=1)
            for kind in ("state", "action")
            for number in range(joints)
        ],
        episodes=[EpisodeFacts(episode=number, frames=300 + number % 7, task=text) for number in range(episodes)],
        findings=[
            Finding(
                rule=rules[number % len(rules)],
                episode=number % episodes,
                subject=text,
                message=f"{text} is odd in frames 3 to 9",
                frames=(3, 9),
                series=Series(title=text, state=course(number), action=course(number + 1)),
                stills=[Still(episode=0, frame=row, webp=picture) for row in range(4)] if number < 12 else [],
            )
            for number in range(findings)
        ],
        courses={
            f"{text} {number}": {each: course(each, 60) for each in range(min(episodes, 10))}
            for number in range(joints)
        },
    )


def printed(found: Profile, width: int = 80) -> str:
    screen = io.StringIO()
    print_profile(Console(file=screen, width=width), found, "./data")
    return screen.getvalue()


def test_names_of_strangers_stay_text():
    page = Read(build_page(a_profile(text=HOSTILE), HOSTILE))
    assert "script" not in page.tags and not page.handlers
    assert all(each.startswith(("data:image/webp;base64,", "#")) for each in page.loads)
    # Title, robot, camera, task, joint, unit, finding, its chart.
    assert page.text.count("alert(1)") >= 8 and "{{ 7*7 }}" in page.text
    assert "alert(1)" in printed(a_profile(text=HOSTILE))
    assert "[/bold]" in printed(a_profile(text="[bold]x[/bold]"))


def test_the_page_says_what_stands_out_first_and_ends_with_the_rules():
    found = a_profile(episodes=40, findings=len(RULES))
    text = Read(build_page(found, "./data")).text
    told = (
        f"{len(RULES)} of 40 episodes deserve a look.",
        f"pippa train PRESET --dataset-path ./data --exclude-episodes {' '.join(found.exclusion)}",
        "What deserves a look",
        RULES[0].title,
        "episode 0:",
        "Cameras",
        "pick the pear 1, 640x480",
        "Tasks",
        "Episodes",
        "Joints",
        "Courses of the state",
        "All rules",
        RULES[-1].why.replace("`", ""),
    )
    position = 0
    for each in told:
        position = text.find(each, position)
        assert position >= 0, each


def test_a_thousand_episodes_forty_joints_and_hundreds_of_findings_stay_below_five_megabytes():
    page = build_page(a_profile(episodes=1000, joints=44, cameras=4, findings=3000, webp=9000), "data")
    assert len(page) < 5_000_000
    assert "pippa data show data --json" in page


def test_eighty_columns_are_enough_and_many_findings_are_summed_up():
    lines = printed(a_profile(episodes=200, findings=400)).splitlines()
    command = [line for line in lines if "pippa train" in line]
    assert len(command) == 1  # in one line, to be copied
    assert max(len(line) for line in lines if line not in command) <= 80
    assert any("more, in episode" in line for line in lines)
    assert len(lines) < 160


def test_nothing_found_is_said_and_leaves_nothing_out():
    found = a_profile(findings=0, cameras=0)
    assert "Nothing stands out." in printed(found) and "--exclude-episodes" not in printed(found)
    page = Read(build_page(found, "data")).text
    assert "Nothing: no rule found anything." in page and "The dataset has no camera." in page


def test_what_most_episodes_have_is_no_reason_to_leave_them_out():
    found = a_profile(episodes=4, findings=12)
    assert found.exclusion == [] and "--exclude-episodes" not in build_page(found, "data")


def test_json_has_facts_findings_and_rules_and_no_pictures():
    found = a_profile(episodes=40)
    document = json.loads(json.dumps(as_document(found)))
    assert document["exclude_episodes"] == found.exclusion and document["hours"] == found.hours
    assert document["findings"][0].keys() == {"rule", "episode", "subject", "message", "frames", "figures"}
    assert set(document["rules"]) == {rule.name for rule in RULES}
    assert len(json.dumps(document)) < 20_000


def test_the_docs_have_every_rule_as_it_is_declared():
    text = DOCS.read_text()
    table = text[text.index("| rule | says something when | why |") :].split("\n\n")[0].splitlines()[2:]
    assert table == [f"| {rule.title} | {rule.fires} | {rule.why} |" for rule in RULES]
