"""What the commands do. Imported only when one of them is called."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from cyclopts import Parameter

from pipelines import console
from pipelines.recipe import Recipe
from pipelines.recipe import load as load_recipe
from pipelines.scans import Scans
from privacy.errors import RecipeError, ReleaseError, UnderstudyError, UsageError
from synth.schema import Schema

if TYPE_CHECKING:
    from pipelines.run import Run

Flag = Annotated[bool, Parameter(negative="", show_default=False)]
Roots = Annotated[tuple[Path, ...], Parameter(name="--root", negative="", show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Changes:
    """Fields of the recipe, for this run only.

    Attributes:
        name: name of the release.
        input: CSV, Parquet or images, a file or a folder; or the address of a database.
        query: what a database is asked, a SELECT.
        broken_rows: rows of CSV files with too many or too few cells, and images that cannot be read, that are set
            aside at most.
        csv: how CSV files are written, as --csv.encoding cp1252 --csv.delimiter ";".
        scans: how DICOM and NIfTI files become images, as --scans.window "[40, 400]".
        allow_drift: read an input whose columns are not those of the schema; the certificate says how they differ.
        schema: the schema of the table.
        dataset: name under which the lifetime of the dataset is kept.
        synthesizer: auto, or a name.
        options: options of the synthesizer, as --options.components 64.
        rows: rows to release, or source.
        draws: times that the table is drawn.
        holdout: share of the units that is held out, or a file that holds them.
        seed: seed of the fit and of the synthetic draw.
        threads: threads of the fit.
        at_least: values of fewer units are pooled.
        fit_rows: rows that are learned from at most.
        shard_rows: rows of one file.
        evidence_rows: rows of each side of the evidence at most.
        inception: weights of InceptionV3, for distances of images as they are published.
        inception_images: images of each side that it looks at at most.
        workers: processes that write shards.
        privacy: a formal guarantee, as --privacy.epsilon 1 --privacy.delta 1e-6.
        targets: a column that models predict, to see what the rows are good for; may be given several times.
        protected: a column whose groups are compared; may be given several times.
        parity: groups that are drawn alike, as --parity.target income --parity.across "[sex]".
        watermark: a mark in released images, as --watermark.key '${env:NAME}'; never the key itself.
        gate: thresholds, as --gate.copies_z 5.
        to: root of the releases.
    """

    name: str | None = None
    input: str | None = None
    query: str | None = None
    broken_rows: int | None = None
    csv: dict[str, str] | None = None
    scans: dict[str, str] | None = None
    allow_drift: bool | None = None
    schema: str | None = None
    dataset: str | None = None
    synthesizer: str | None = None
    options: dict[str, str] | None = None
    rows: str | None = None
    draws: int | None = None
    holdout: str | None = None
    seed: int | None = None
    threads: int | None = None
    at_least: int | None = None
    fit_rows: int | None = None
    shard_rows: int | None = None
    evidence_rows: int | None = None
    inception: str | None = None
    inception_images: int | None = None
    workers: int | None = None
    privacy: dict[str, str] | None = None
    targets: Annotated[tuple[str, ...] | None, Parameter(negative="")] = None
    protected: Annotated[tuple[str, ...] | None, Parameter(negative="")] = None
    parity: dict[str, str] | None = None
    watermark: dict[str, str] | None = None
    gate: dict[str, str] | None = None
    to: str | None = None

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these fields."""
        changes: dict[str, Any] = {k: v for k, v in asdict(self).items() if v is not None}
        for field in ("rows", "holdout"):
            if field in changes:
                changes[field] = _value(field, changes[field])
        now_private = {} if recipe.privacy is None else recipe.privacy.model_dump(mode="json")
        for field, now in (
            ("options", recipe.options),
            ("privacy", now_private),
            ("parity", {} if recipe.parity is None else recipe.parity.model_dump(mode="json")),
            ("watermark", {} if recipe.watermark is None else recipe.watermark.model_dump(mode="json")),
            ("gate", recipe.gate.model_dump(mode="json")),
            ("scans", recipe.scans.model_dump(mode="json")),
            ("csv", {} if recipe.csv is None else recipe.csv.model_dump(mode="json")),
        ):
            if field in changes:
                # A key is text, whatever it looks like: a message about its form would show it.
                given = {
                    k.replace("-", "_"): v
                    if (field, k) == ("watermark", "key")
                    else _value(f"{field}.{k}", v)
                    for k, v in changes[field].items()
                }
                changes[field] = {**now, **given}
        return recipe.with_fields(changes) if changes else recipe


def _value(option: str, text: str) -> Any:
    """The value that an option of any type stands for, written as in a recipe."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise RecipeError(f"--{option} must be a value as in YAML, however: {text!r}; quote it") from None


def init(
    data: str | None = None,
    /,
    *,
    query: str | None = None,
    example: str | None = None,
    blind: Flag = False,
    sdv_metadata: Path | None = None,
    sdv_constraints: Path | None = None,
    headers: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Look at a table and write schema.yaml and recipe.yaml into this folder, to review.

    Args:
        data: CSV, Parquet or images (PNG, JPEG and TIFF, IDX, npz, WebDataset, DICOM, NIfTI), a file or a folder; or a
            SQLite or DuckDB file, or the address of a database, in which secrets are written as ${env:NAME} or
            ${prefect:BLOCK}.
        query: what a database is asked: a SELECT.
        example: write a real table to try instead: flights, or digits with images.
        blind: names and kinds only; nothing is taken from the rows.
        sdv_metadata: SDV metadata JSON that says the kinds.
        sdv_constraints: JSON of SDV's constraints, as get_constraints of SDV 2 writes it.
        headers: an attribute of DICOM headers that becomes a column, e.g. Modality; may be given several times.
        force: overwrite files that are there.
        json: print one JSON object.
    """
    from pipelines.examples import write_example
    from pipelines.init import check_targets, initialize

    here = Path.cwd()
    if (data is None) == (example is None):
        raise UsageError(
            "init needs a table or --example flights (or digits), however: it got both or neither; give one"
        )
    if example is not None:
        check_targets(here, force=force)
    source = str(write_example(example, here, force=force)) if example is not None else data
    assert source is not None
    written = initialize(
        source,
        here,
        query=query,
        blind=blind,
        force=force,
        sdv_metadata=sdv_metadata,
        sdv_constraints=sdv_constraints,
        scans=Scans.of(headers),
    )
    if json:
        console.say_json(written.to_dict())
        return
    console.say(written.describe())


def plan(recipe: Path, /, *, changes: Changes = Changes(), root: Roots = (), json: Flag = False) -> None:
    """Say what a recipe would do; no private row is read.

    Args:
        recipe: the recipe.
        changes: fields of the recipe, for this run only.
        root: a folder that inputs may lie in; may be given several times.
        json: print one JSON object.
    """
    from pipelines.plan import estimate
    from pipelines.run import open_run

    found = estimate(open_run(changes.apply(load_recipe(recipe)), recipe.parent, roots=root, begin=False))
    if json:
        console.say_json(found.to_dict())
        return
    console.say(found.describe())


def release(recipe: Path, /, *, changes: Changes = Changes(), root: Roots = (), json: Flag = False) -> None:
    """Make a release: the main job.

    Args:
        recipe: the recipe.
        changes: fields of the recipe, for this run only.
        root: a folder that inputs may lie in; may be given several times.
        json: print one JSON object on stdout; logs go to stderr.
    """
    from pipelines.run import open_run
    from pipelines.steps import release as walk

    chosen = changes.apply(load_recipe(recipe))
    run = open_run(chosen, recipe.parent, roots=root, watch=console.watch())
    _report(walk(run), json=json)


def trial(
    recipe: Path,
    /,
    *,
    synthesizers: str = "",
    changes: Changes = Changes(),
    root: Roots = (),
    json: Flag = False,
) -> None:
    """Fit several synthesizers on the same split and show what each came to; nothing is published.

    Args:
        recipe: the recipe.
        synthesizers: names with commas between, as circuit,vae,sdv-tvae; all of ours, if none is named. Options are
            for the recipe's own synthesizer (or that of --synthesizer), the others have their defaults.
        changes: fields of the recipe, for this run only.
        root: a folder that inputs may lie in; may be given several times.
        json: print one JSON object on stdout; logs go to stderr.
    """
    from pipelines.trial import attempt

    names = [n.strip() for n in synthesizers.split(",") if n.strip()]
    found = attempt(
        changes.apply(load_recipe(recipe)), recipe.parent, names, roots=root, watch=console.watch()
    )
    if json:
        console.say_json({**asdict(found.comparison), "page": str(found.page)})
        return
    console.say(found.describe())


def resume(run: Path, /, *, json: Flag = False) -> None:
    """Go on with a run that was interrupted; finished steps are kept.

    Args:
        run: the folder of the run, as `release` printed it.
        json: print one JSON object on stdout; logs go to stderr.
    """
    from pipelines.run import reopen_run
    from pipelines.steps import release as walk

    _report(walk(reopen_run(run, watch=console.watch())), json=json)


def sample(
    model: Path, out: Path, /, *, rows: int = 10_000, seed: int = 0, force: Flag = False, json: Flag = False
) -> None:
    """Draw rows from a fitted model into a Parquet file; no private row is read, so it costs no budget.

    Args:
        model: the folder `model` of a run, or the run.
        out: the Parquet file to write.
        rows: how many.
        seed: of the draw; the same gives the same rows.
        force: overwrite a file that is there.
        json: print one JSON object.
    """
    import pyarrow.parquet as pq

    from pipelines.workspace import check_out, model_in
    from synth.table import load

    check_out(out, "sample overwrites nothing", force=force)
    fitted = load(model_in(model))
    pq.write_table(fitted.sample(rows, seed=seed), out, compression="zstd")
    if json:
        console.say_json({"rows": rows, "seed": seed, "file": str(out), "model_digest": fitted.digest()})
    else:
        console.say(f"{rows:,} rows in {out}")


def denoise(
    model: Path,
    source: Path,
    out: Path,
    /,
    *,
    noise: float = 25.0,
    seed: int = 0,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Take noise out of images by a fitted model, into a Parquet file; what comes out is as private as what goes in.

    SOURCE is read, not learned from: no budget is charged, and nothing of OUT is a release. It belongs to the inside.

    Args:
        model: the folder `model` of a run, or the run; of image-vae, autoencoder or image-diffusion.
        source: Parquet or a folder of images, with the model's column of images; other columns stay, and those that the
            model knows help.
        out: the Parquet file to write: as private as SOURCE, whatever the model promises, so for the inside alone.
        noise: its standard deviation, in levels of 256.
        seed: of what is drawn.
        force: overwrite a file that is there.
        json: print one JSON object.
    """
    from pipelines.restore import restore

    found = restore(
        model, source, out, lambda m, t, s: m.denoise(t, noise=noise, seed=s), seed=seed, force=force
    )
    _mended(found, out, json=json)


def enhance(
    model: Path,
    source: Path,
    out: Path,
    /,
    *,
    scale: int = 2,
    seed: int = 0,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Enlarge images by what a fitted model knows of such images; what is added is no evidence of anything.

    SOURCE is read, not learned from: no budget is charged, and nothing of OUT is a release. It belongs to the inside.

    Args:
        model: the folder `model` of a run, or the run; of image-vae, autoencoder or image-diffusion.
        source: Parquet or a folder of images, with the model's column of images, which may be smaller than the model's;
            other columns stay, and those that the model knows help.
        out: the Parquet file to write: as private as SOURCE, whatever the model promises, so for the inside alone.
        scale: how many times smaller the images were, in each direction.
        seed: of what is drawn.
        force: overwrite a file that is there.
        json: print one JSON object.
    """
    from pipelines.restore import restore

    found = restore(
        model, source, out, lambda m, t, s: m.enhance(t, scale=scale, seed=s), seed=seed, force=force
    )
    _mended(found, out, json=json)


def _mended(found: Any, out: Path, *, json: bool) -> None:
    if json:
        console.say_json({**asdict(found), "file": str(out)})
    else:
        console.say(f"{found.rows:,} rows in {out}, as private as the images that were given")


def evaluate(
    real: Path,
    synthetic: Path,
    /,
    *,
    holdout: Path | None = None,
    schema: Path | None = None,
    target: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    protected: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    rows: int = 50_000,
    at_least: int = 10,
    seed: int = 0,
    inception: Path | None = None,
    inception_images: int = 50_000,
    page: Path | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Judge a synthetic table that any tool made; exit code 0 if the default gate passes, 3 if it does not.

    Args:
        real: the rows that it was learned from; CSV or Parquet, a file or a folder.
        synthetic: the synthetic rows, with the same columns.
        holdout: real rows that the tool never saw; without it a fifth of REAL is taken for them.
        schema: what the columns are; without it that is found out from REAL.
        target: a column that models predict; may be given several times.
        protected: a column whose groups are compared, such as sex; may be given several times.
        rows: rows of each side that are measured at most, drawn uniformly.
        at_least: units below which no category and no bin is shown.
        seed: of what is drawn.
        inception: weights of InceptionV3 (.pth or .safetensors), for distances of images as they are published.
        inception_images: images of each side that it looks at at most; one takes 0.12 s of a core.
        page: write the evidence as a page into this file; its figures are exact, so it belongs to the inside.
        force: overwrite a file that is there.
        json: print one JSON object.
    """
    from pipelines.evaluate import Asked
    from pipelines.evaluate import evaluate as judge
    from pipelines.workspace import check_out

    if page is not None:
        check_out(page, "evaluate overwrites nothing", force=force, what="page")
    found = judge(
        Asked(
            real=real, synthetic=synthetic, holdout=holdout, schema=schema, targets=target, protected=protected,
            rows=rows, at_least=at_least, seed=seed, inception=inception, inception_images=inception_images,
        )
    )  # fmt: skip
    if page is not None:
        page.write_text(found.page(), "utf-8")
    if json:
        console.say_json(found.to_dict())
    else:
        console.say(found.describe())
    found.raise_if_refused()


def report(
    run: Path, /, *, open_: Annotated[Flag, Parameter(name="--open")] = False, json: Flag = False
) -> None:
    """Write the report of a run, passed or refused, into its workspace, or find that of a release; say where it is.

    Args:
        run: the folder of a run, as `release` printed it, or of a release.
        open_: open it in the browser.
        json: print one JSON object.
    """
    from pipelines.report import page_of, show

    page = page_of(run)
    if json:
        console.say_json({"report": str(page)})
    else:
        console.say(str(page))
    if open_:
        show(page)


def compare(before: Path, after: Path, /, *, json: Flag = False) -> None:
    """Say what changed between two releases of one dataset; reads what is published, and nothing else.

    Args:
        before: the folder of the earlier release.
        after: the folder of the later one.
        json: print one JSON object.
    """
    from pipelines.compare import compare as hold

    found = hold(before, after)
    if json:
        console.say_json(found.to_dict())
    else:
        console.say(found.describe())


def infer(release: Path, formula: str, /, *, learned: int | None = None, json: Flag = False) -> None:
    """Explain one column of a release by others, with intervals that know that the rows are synthetic.

    Linear for numbers, logistic for classes; rows that miss something are left out. For other estimates:
    validation.inference.combine in Python.

    Args:
        release: the folder of the release; all its draws are read.
        formula: as 'income ~ age + sex', with `.` for all other columns, and names with + or ~ between backticks.
        learned: real rows that the model learned from, where the certificate does not say it.
        json: print one JSON object.
    """
    from pipelines.infer import infer as estimate

    if learned is not None and learned < 1:
        raise UsageError(f"--learned must be 1 or more, however: {learned}; ask who made the release")
    found = estimate(release, formula, learned=learned)
    if json:
        console.say_json(found.to_dict())
    else:
        console.say(found.describe())


def catalog(root: str = "releases", /, *, json: Flag = False) -> None:
    """Write catalog.json and index.html of all releases below a root anew.

    Args:
        root: the root of the releases, a folder, or s3://bucket/prefix in an object store.
        json: print one JSON object.
    """
    from pipelines.catalog import rebuild, rebuild_remote

    found = rebuild_remote(root) if root.startswith("s3://") else rebuild(Path(root))
    if json:
        console.say_json(asdict(found))
        return
    for what in found.left_out:
        console.note(f"a release is left out: {what}")
    releases = f"{found.releases:,} release{'s' * (found.releases != 1)}"
    console.say(f"{releases}\n  page     {found.page}\n  catalog  {found.catalog}")


def export(
    release: Path,
    out: Path,
    /,
    *,
    format: Literal["csv", "png", "dicom"] = "csv",
    label: str | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Write a release as CSV, or its images as PNG or DICOM files; texts like formulas get an apostrophe.

    With CSV, images go into a folder beside it.

    Args:
        release: the folder of the release.
        out: the CSV file to write; called .csv.gz, .csv.bz2 or .csv.zst it is packed. Of PNG and DICOM the folder.
        format: csv; png: a file for each image in a folder of its class, and metadata.csv with all other columns;
            dicom: Secondary Capture of patients who do not exist, and metadata.csv.
        label: the column of classes, with png; the first that is called like a label, if none is given.
        force: overwrite a file that is there, or replace a folder that export wrote.
        json: print one JSON object.
    """
    if format == "csv":
        from pipelines.export import export as write

        if label is not None:
            raise UsageError("a label names folders of images, however: the format is csv; add --format png")
        rows, escaped = write(release, out, force=force)
        if json:
            console.say_json({"rows": rows, "escaped": escaped, "file": str(out)})
        else:
            console.say(f"{rows:,} rows in {out}; {escaped:,} texts like formulas were escaped")
        return
    from pipelines.album import export_images

    found = export_images(release, out, format=format, label=label, force=force)
    if json:
        console.say_json({**asdict(found), "folder": str(found.folder)})
    else:
        console.say(found.describe())


def push(release: Path, address: str, /, *, json: Flag = False) -> None:
    """Put a release into an object store; a reader there sees all of it or nothing.

    Args:
        release: the folder of the release.
        address: s3://bucket/prefix; keys come from the environment.
        json: print one JSON object.
    """
    from pipelines.remote import push as put

    where = put(release, address)
    if json:
        console.say_json({"address": where})
        return
    console.say(f"Pushed to {where}")


def pull(address: str, folder: Path = Path("releases"), /, *, json: Flag = False) -> None:
    """Fetch a release from an object store, and check every file of it.

    Args:
        address: s3://bucket/prefix/NAME for its latest, or that of one release.
        folder: where the folder of the release goes.
        json: print one JSON object.
    """
    from pipelines.remote import pull as fetch

    where = fetch(address, folder)
    if json:
        console.say_json({"release": str(where)})
        return
    console.say(f"Fetched {where}, every file as listed")


def keygen(name: Path = Path("understudy"), /, *, json: Flag = False) -> None:
    """Make a pair of keys to sign releases with: NAME.key, which is secret, and NAME.pub, which others need.

    Args:
        name: path of the two files without their endings.
        json: print one JSON object.
    """
    from pipelines.sign import keygen as make

    keys = make(name)
    if json:
        console.say_json({"secret": str(keys.secret), "public": str(keys.public), "number": keys.number})
        return
    console.say(
        f"Wrote {keys.secret} and {keys.public}, number {keys.number}.\nThe first has no password: keep it secret, "
        "out of every repository; give the second to whoever shall verify."
    )


def sign(release: Path, /, *, key: Path = Path("understudy.key"), json: Flag = False) -> None:
    """Sign a release, in minisign's format.

    Args:
        release: the folder of the release.
        key: the secret key.
        json: print one JSON object.
    """
    from pipelines.sign import sign as put

    path = put(release, key)
    if json:
        console.say_json({"signature": str(path)})
        return
    console.say(f"Signed: {path}")


def verify(release: Path, /, *, public_key: Path | None = None, json: Flag = False) -> None:
    """Check every checksum of a release, its data against its own schema, and its signature.

    Args:
        release: the folder of the release.
        public_key: the key that must have signed it; without one a signature is not checked.
        json: print one JSON object.
    """
    from pipelines.verify import verify as check

    found = check(release, public_key=public_key)
    if json:
        console.say_json(asdict(found))
        return
    console.say(
        f"{release}: {found.files} files as listed, {found.rows:,} rows as their schema says; "
        f"signature: {found.signature}"
    )


def watermark(
    place: Path,
    /,
    *,
    key: str,
    levels: float | None = None,
    images: int = 10_000,
    json: Flag = False,
) -> None:
    """Look for a key's mark in a release, or in any images; exit code 0 if it is found, 1 if not.

    Args:
        place: a release, or images as init reads them: a file or a folder.
        key: where the key is: env:NAME or prefect:BLOCK; never the key itself.
        levels: strength of the mark; what the release says, or 1, if none is given.
        images: images that are looked at, at most.
        json: print one JSON object.
    """
    from pipelines.watermark import search

    found = search(place, key, levels=levels, most=images)
    if json:
        console.say_json(found.to_dict())
    else:
        console.say(found.describe())
    if not found.sighting.found:
        e = ReleaseError(f"a mark of this key must be found, however: it is not, in {place}")
        e.told = True
        raise e


def budget(
    action: Literal["show", "set", "history", "verify", "void"] = "show",
    dataset: str | None = None,
    /,
    *,
    epsilon: float | None = None,
    delta: float | None = None,
    by: str | None = None,
    release: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    json: Flag = False,
) -> None:
    """Show, set or check the privacy budgets of datasets, in the ledger of this folder or UNDERSTUDY_LEDGER.

    Args:
        action: show what is spent; set a lifetime; list a dataset's history; verify the chain of all entries; void
            reservations that touched no row and whose process has ended.
        dataset: its name, as in the recipe; for show, all of them without it.
        epsilon: the lifetime that is set.
        delta: the delta of that.
        by: who sets it.
        release: releases whose certificates the ledger must know, for verify.
        json: print one JSON object.
    """
    from pipelines import budget as actions

    found = actions.ACTIONS[action](
        actions.Asked(
            dataset=dataset, epsilon=epsilon, delta=delta, by=by, releases=release, folder=Path.cwd()
        )
    )
    if json:
        console.say_json(found.data)
    else:
        console.say("\n".join(found.lines))


def audit(
    recipe: Path,
    /,
    *,
    canaries: int = 1_000,
    rows: int = 10_000,
    thorough: Flag = False,
    shadows: int = 32,
    targets: int = 200,
    root: Roots = (),
    json: Flag = False,
) -> None:
    """Bound a private recipe's epsilon from below, on made-up rows; or attack others by shadow models, with --thorough.

    The first reads no private row. The second, for a recipe without a `privacy` section, reads those of its own run,
    and fits many models; exit code 3 if it wins more than the gate allows. Nothing is charged.

    Args:
        recipe: the recipe.
        canaries: made-up rows that are put in or left out by a coin.
        rows: made-up rows beside them; with --thorough, real rows at most, of which each shadow model learns half.
        thorough: attack by shadow models.
        shadows: how many of them are fitted.
        targets: rows that they are attacked with: so many of the most exposed, and as many at random.
        root: a folder that inputs may lie in, besides the recipe's own.
        json: print one JSON object.
    """
    from pipelines.run import open_run

    run = open_run(load_recipe(recipe), recipe.parent, roots=root, watch=console.watch())
    if thorough:
        _shadowed(run, shadows=shadows, targets=targets, rows=rows, json=json)
        return
    from pipelines.audit import examine

    if canaries < 10 or rows < 100:
        raise UsageError(
            f"an audit needs 10 canaries and 100 rows at least, however: {canaries} and {rows}; give more"
        )
    found = examine(run, rows=rows, canaries=canaries)
    if json:
        console.say_json({**found.found.to_dict(), "promised": found.epsilon, "broken": found.broken})
    else:
        console.say(found.describe())
    found.raise_if_broken()


def _shadowed(run: "Run", *, shadows: int, targets: int, rows: int, json: bool) -> None:
    from pipelines.shadows import Asked, attack, judge

    found = attack(run, Asked(models=shadows, targets=targets, rows=rows))
    if json:
        console.say_json(found.to_dict())
    else:
        console.say(found.describe())
    try:
        judge(run, found)
    except UnderstudyError as e:
        e.told = True
        raise


def metadata(schema: Path, /, *, constraints: Flag = False) -> None:
    """Write a schema as SDV metadata JSON (V1), to stdout.

    Args:
        schema: the schema, YAML or JSON.
        constraints: write its constraints instead, as load_constraints of SDV 2 reads them.
    """
    from synth.metadata import constraints_to_sdv, to_sdv

    known = _schema(schema)
    console.say_json(constraints_to_sdv(known) if constraints else to_sdv(known))


def expectations(
    action: Literal["export"],
    source: Path,
    /,
    *,
    reference: Path | None = None,
    holdout: Path | None = None,
) -> None:
    """Write a suite for Great Expectations, JSON to stdout: what a release's schema says, and how it is like real rows.

    `gx.ExpectationSuite(**json)` loads it; it is for frames as `pandas.read_parquet` gives them. With --reference it
    belongs to the inside, and needs `import validation.reference` before it is loaded.

    Args:
        action: export is all that there is.
        source: a release, or a schema, YAML or JSON.
        reference: real rows that the release was learned from, Parquet, a file or a folder.
        holdout: real rows that it was not learned from, Parquet; a fifth of the reference without.
    """
    from pipelines.released import read
    from validation.expectations import suite

    name = source.resolve().parent.name if source.is_dir() else source.stem
    release = read(source) if source.is_dir() else None
    schema = _schema(source).kept if release is None else release.schema
    if reference is None:
        if holdout is not None:
            raise UsageError(
                "held-out rows stand beside a reference, however: there is none; give --reference"
            )
        console.say_json(suite(schema, name))
        return
    from validation.reference import Beside

    control = None if release is None else release.certificate.get("disclosure_control")
    console.say_json(
        suite(
            schema,
            name,
            Beside(
                reference=str(reference.resolve()),
                holdout=None if holdout is None else str(holdout.resolve()),
                unit=schema.unit,
                at_least=int(control["at_least"]) if control else 10,
            ),
        )
    )


def _schema(path: Path) -> Schema:
    from privacy.errors import SchemaError

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise SchemaError(f"a schema must be a readable UTF-8 file, however: {path} is not") from None
    return Schema.parse(text, source=path.name)


def doctor(*, json: Flag = False) -> None:
    """Check this installation.

    Args:
        json: print one JSON object.
    """
    from pipelines.doctor import examine

    found = examine()
    if json:
        console.say_json(found.to_dict())
    else:
        console.say(found.describe())
    try:
        found.raise_for_faults()
    except UnderstudyError as e:
        e.told = True
        raise


WARNINGS = 5
"""Warnings of a release that are printed at most."""


def _report(outcome: Any, *, json: bool) -> None:
    if json:
        console.say_json(outcome.to_dict())
        return
    from validation.markup import one_line

    seconds = sum(outcome.seconds.values())
    number = " (a noised number)" if outcome.rows_noised else ""
    done = f"{outcome.rows:,} rows{number} in {seconds:.0f} s: {outcome.verdict}"
    said = "Published already, nothing has changed since. It was" if outcome.again else "Released"
    console.say(
        f"{said} {done}\n"
        f"  release  {outcome.release}\n"
        f"  report   {outcome.release / 'report.html'}\n"
        f"  card     {outcome.release / 'README.md'}\n"
        f"  run      {outcome.run}"
        + (
            ""
            if outcome.exact_report is None
            else f"\n  inside   {outcome.exact_report} (exact, never to be shown)"
        )
        + "".join(f"\n  warning  {one_line(w)}" for w in outcome.warnings[:WARNINGS])
        + (f"\n  … and {more} more in the report" if (more := len(outcome.warnings) - WARNINGS) > 0 else "")
    )
