//! Where runs are kept and what they are called: ids that sort by time, the folder above them, the
//! `latest` link.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::bundle::BundleError;

/// Marks the root of a project's results.
const PROJECT_FILE: &str = "vaultmark.toml";

/// The link to the last run.
const LATEST: &str = "latest";

/// Longest part of a scenario's name that an id takes: folders stay readable.
const NAME_MAX: usize = 40;

/// The id of a run: `20261121T031502Z-quickstart-7f3a`. Of `nonce` the last 16 bits tell apart runs
/// of one second.
#[must_use]
pub fn run_id(started: SystemTime, name: &str, nonce: u64) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().take(NAME_MAX).map(plain).collect();
    let Civil { year, month, day, hour, minute, second } = Civil::of(started);
    format!(
        "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z-{name}-{:04x}",
        nonce & 0xffff
    )
}

/// Calendar time as RFC 3339 has it, UTC, whole seconds: `2026-11-21T03:15:02Z`. Times before 1970
/// are told as its first second.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::of(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Where runs go: `results/runs` beneath the nearest folder with a `vaultmark.toml`, from `cwd`
/// upwards; beneath `cwd` if there is none.
#[must_use]
pub fn runs_root(cwd: &Path) -> PathBuf {
    let project = cwd.ancestors().find(|folder| folder.join(PROJECT_FILE).is_file());
    project.unwrap_or(cwd).join("results").join("runs")
}

/// Points `latest` beside a run's folder at it.
///
/// # Errors
/// The link cannot be made, or something that is no link has its name.
#[cfg(unix)]
pub fn link_latest(run_folder: &Path) -> Result<(), BundleError> {
    let (Some(root), Some(name)) = (run_folder.parent(), run_folder.file_name()) else {
        return Ok(());
    };
    let (link, fresh) = (root.join(LATEST), root.join(format!(".{LATEST}.new")));
    let cannot = |error| BundleError::Write(link.clone(), error);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => {}
    }
    // Made beside and moved over: who looks meanwhile finds the old run or the new one.
    std::os::unix::fs::symlink(name, &fresh).map_err(cannot)?;
    fs::rename(&fresh, &link).map_err(cannot)
}

/// The folder of the last run: where `latest` points, else the youngest id; `None` if there is no
/// run.
#[must_use]
pub fn latest(runs_root: &Path) -> Option<PathBuf> {
    let holds_run = |folder: &Path| folder.join("run.json").is_file();
    if let Ok(name) = fs::read_link(runs_root.join(LATEST)) {
        let folder = runs_root.join(name);
        if holds_run(&folder) {
            return Some(folder);
        }
    }
    let folders = fs::read_dir(runs_root).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    folders.filter(|folder| holds_run(folder)).max()
}

/// A second of the Gregorian calendar, UTC.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Civil {
    /// After Howard Hinnant's `civil_from_days`: years begin in March, so that a leap day is the
    /// last of its year; an era is 400 years, 146,097 days.
    fn of(time: SystemTime) -> Self {
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // From 1 March of the year 0.
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: seconds / 3_600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn calendar_time_is_right_across_leap_days() {
        // From `date -u -d @N +%FT%TZ`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_219_200, "2026-11-21T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(at(seconds)), text);
        }
        assert_eq!(
            rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)),
            "1970-01-01T00:00:00Z"
        );
    }

    #[test]
    fn ids_sort_by_time_and_are_plain() {
        let id = run_id(at(1_795_230_902), "quickstart", 0xabc_d7f3a);
        assert_eq!(id, "20261121T031502Z-quickstart-7f3a");
        assert_eq!(run_id(at(0), "Äh, ../x", 1), "19700101T000000Z--h-----x-0001");
        assert!(id < run_id(at(1_795_230_903), "a", 0));
    }

    #[test]
    fn the_latest_run_is_found_with_and_without_its_link() {
        let temporary = tempfile::tempdir().unwrap();
        let root = runs_root(temporary.path());
        assert_eq!(root, temporary.path().join("results/runs"));
        assert_eq!(latest(&root), None);
        let make = |id: &str| {
            let folder = root.join(id);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("run.json"), "{}").unwrap();
            folder
        };
        let (old, new) = (make("2026-a"), make("2027-b"));
        assert_eq!(latest(&root), Some(new.clone()));
        link_latest(&old).unwrap();
        assert_eq!(latest(&root), Some(old));
        link_latest(&new).unwrap();
        assert_eq!(latest(&root), Some(new.clone()));
        fs::remove_dir_all(new).unwrap();
        assert_eq!(latest(&root), Some(root.join("2026-a")));

        fs::remove_file(root.join(LATEST)).unwrap();
        fs::create_dir(root.join(LATEST)).unwrap();
        assert!(link_latest(&root.join("2026-a")).unwrap_err().to_string().contains("latest"));
    }

    #[test]
    fn the_nearest_project_file_says_where_runs_go() {
        let temporary = tempfile::tempdir().unwrap();
        let deep = temporary.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(temporary.path().join("a").join(PROJECT_FILE), "").unwrap();
        assert_eq!(runs_root(&deep), temporary.path().join("a/results/runs"));
    }
}
