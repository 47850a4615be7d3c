"""``pippa store check``: everything in a store that is damaged, what that costs, and what can be done about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.config.run_spec import RunSpec
from trainer.errors import DamagedObjectError, StoreError, UsageError
from trainer.store import blobs, registry, resume_points, runs
from trainer.store.clock import store_time
from trainer.store.damage import damaged_blobs, note_damaged_blob, quarantine, read_good
from trainer.store.gc_barrier import Sweep, intended_keys
from trainer.store.manifest import BLOBS, SNAPSHOTS, Manifest, blob_key, manifest_key, parse_manifest_key, read_manifest
from trainer.store.object_store import MissingObjectError, ObjectStore
from trainer.store.parallel import Progress, for_each
from trainer.store.restoring import with_known_figures

PUSH_AGAIN = "Pushing the same files again repairs it."


@dataclass(frozen=True)
class Problem:
    """Something that is damaged: what, and what was done, can be done by ``--repair``, or must be done by a person."""

    key: str
    what: str
    cure: str
    repaired: bool = False


@dataclass(frozen=True)
class Fix:
    """What can be done, as it ends "can be …"; ``do`` returns whether it worked."""

    text: str
    do: Callable[[], bool]
    otherwise: str = ""
    """What a person can do beside it; a sentence."""


class Check:
    """Looks through a store. With ``repair`` it also restores what can be, and moves the rest out of the way.

    ``contents`` reads and hashes every file too; else their sizes tell. Nothing is lost by it: what is moved lies under
    ``quarantine/``.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        repair: bool = False,
        contents: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.store = store
        self.repair = repair
        self.contents = contents
        self.progress = progress
        self.problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """All problems. What others can be restored from is repaired first."""
        damage: list[DamagedObjectError] = []
        entries = registry.list_checkpoints(self.store, damage=damage)
        self._runs({entry.run_id: entry.spec for entry in entries})
        manifests = self._manifests()
        for error in damage:
            self._found(error.key, error.message, self._entry_fix(error.key, list(manifests.values())))
        for entry in entries:
            if manifest_key(entry.snapshot) not in manifests:
                what = f"Checkpoint {entry.name} can't be pulled: its manifest is missing or damaged."
                self._found(entry.key, what, self._aside(entry.key, PUSH_AGAIN))
        self._aliases()
        self._intents()
        self._blobs(list(manifests.values()))
        return self.problems

    def _found(self, key: str, what: str, fix: Fix | None, cure: str = "") -> None:
        done = False
        if fix is not None:
            cure = f"--repair: it can be {fix.text}. {fix.otherwise}"
            if self.repair:
                try:
                    done = fix.do()
                    cure = f"It was {fix.text}." if done else "It was left: somebody is writing it."
                except StoreError as error:
                    cure = f"It could not be {fix.text}: {error.message}"
        self.problems.append(Problem(key, what, cure.strip(), done))

    def _aside(self, key: str, otherwise: str = "") -> Fix:
        return Fix("moved to quarantine/", lambda: self._set_aside(key), otherwise)

    def _set_aside(self, key: str) -> bool:
        """Move an object to ``quarantine/``, unless a writer is about to write or rely on it."""
        with Sweep(self.store) as sweep:
            if key in intended_keys(self.store, sweep.now, [])[0]:
                return False
            quarantine(self.store, key)
        return True

    def _runs(self, specs: dict[str, RunSpec]) -> None:
        damage: list[DamagedObjectError] = []
        for run_id in runs.with_file(self.store, "spec.json"):
            try:
                runs.read_spec(self.store, run_id)
            except DamagedObjectError as error:
                spec = specs.get(run_id)
                fix = Fix("restored from the registry", lambda spec=spec: self._restore_spec(spec)) if spec else None
                self._found(error.key, error.message, fix or self._aside(error.key))
        read_good(lambda run: runs.read_state(self.store, run, damage), runs.with_file(self.store, "state.json"), None)
        read_good(self._point, runs.with_file(self.store, resume_points.FILE), damage)
        for error in damage:
            self._found(error.key, error.message, self._aside(error.key, "A run that continues writes it again."))

    def _point(self, run_id: str) -> object:
        return runs.read_document(self.store, run_id, resume_points.FILE, resume_points.ResumePoint)

    def _restore_spec(self, spec: RunSpec) -> bool:
        quarantine(self.store, f"{runs.RUNS}{spec.run_id}/spec.json")
        runs.write_spec(self.store, spec)
        return True

    def _manifests(self) -> dict[str, Manifest]:
        damage: list[DamagedObjectError] = []
        keys = [found.key for found in self.store.list(SNAPSHOTS) if parse_manifest_key(found.key)]
        found = read_good(self._manifest, keys, damage)
        for error in damage:
            self._found(error.key, error.message, self._aside(error.key, PUSH_AGAIN))
        return {manifest_key(manifest.ref): manifest for manifest in found}

    def _manifest(self, key: str) -> Manifest | None:
        ref = parse_manifest_key(key)
        try:
            return None if ref is None else read_manifest(self.store, ref)
        except MissingObjectError:  # collected since
            return None

    def _entry_fix(self, key: str, manifests: list[Manifest]) -> Fix:
        """Restore an entry from its run's spec and the one snapshot that says it is of that step."""
        named = registry.parse_entry_key(key)
        assert named is not None  # noqa: S101 - lists have such keys only
        run_id, step = named
        origin = {"run_id": run_id, "step": str(step)}
        own = [each for each in manifests if each.name == run_id and origin.items() <= each.origin.items()]
        try:
            spec = runs.read_spec(self.store, run_id)
        except (DamagedObjectError, UsageError):
            spec = None
        if spec is None or len(own) != 1:
            return self._aside(key)

        def restore() -> bool:
            entry = registry.CheckpointEntry(
                run_id=run_id,
                step=step,
                snapshot=own[0].ref,
                spec=spec,
                created=own[0].created,
                wandb_run=spec.wandb_run,
            )
            registry.register(self.store, with_known_figures(self.store, own[0], entry))
            return True

        return Fix("restored from its files and its run", restore)

    def _aliases(self) -> None:
        damage: list[DamagedObjectError] = []
        targets = registry.aliases(self.store, damage)
        lost = {
            f"{registry.ALIASES}{name}.json": f"The alias {name} names {target}, which is not registered."
            for name, target in targets.items()
            if not self.store.exists(f"{registry.CHECKPOINTS}{target}.json")
        }
        for key, what in {**{error.key: error.message for error in damage}, **lost}.items():
            alias = registry.parse_alias_key(key) or ""
            entry = registry.moved_by_pippa(self.store, alias)
            if entry is not None:
                restore = Fix(
                    f"set to {entry.name}", lambda alias=alias: bool(registry.restore_alias(self.store, alias))
                )
                self._found(key, what, restore)
            else:
                again = f"Set it again: `pippa checkpoints alias {alias} RUN/STEP`."
                self._found(key, what, self._aside(key, again))

    def _intents(self) -> None:
        damage: list[DamagedObjectError] = []
        intended_keys(self.store, store_time(self.store), damage)
        for error in damage:
            self._found(error.key, error.message, None, "gc deletes nothing until it expires, within an hour.")

    def _blobs(self, manifests: list[Manifest]) -> None:
        users: dict[str, list[Manifest]] = {}
        sizes: dict[str, int] = {}
        for manifest in manifests:
            for file in manifest.files:
                sizes[file.sha256] = file.size
                users.setdefault(file.sha256, []).append(manifest)
        stored = {found.key: found.size for found in self.store.list(BLOBS)}
        noted = damaged_blobs(self.store)
        counter = Progress(sum(sizes.values()), self.progress if self.contents else None)

        def examine(sha256: str) -> tuple[str, str] | None:
            size = stored.get(blob_key(sha256))
            problem = None
            if size is None:
                problem = "is missing"
            elif size != sizes[sha256]:
                problem = f"has {size} bytes instead of {sizes[sha256]}"
            elif (self.contents or sha256 in noted) and blobs.problem(self.store, sha256, size):
                problem = "has another content"
            counter.advance(sizes[sha256])
            return None if problem is None else (sha256, problem)

        for sha256, problem in filter(None, for_each(examine, sizes, workers=blobs.DOWNLOADS)):
            if problem == "has another content":
                note_damaged_blob(self.store, sha256)
            names = sorted({str(manifest.ref) for manifest in users[sha256]})
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            self._found(blob_key(sha256), f"A file of {names[0]}{more} {problem}.", None, PUSH_AGAIN)
