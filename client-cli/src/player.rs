//! Finding a player that can do RTSP, and how each is started.

use crate::config::Environment;
use crate::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to install, for people.
const INSTALL: &str = "install mpv (on Debian: sudo apt install mpv), ffmpeg's ffplay, GStreamer's \
gst-play-1.0 (gstreamer1.0-plugins-base-apps), or VLC from Flatpak or Snap, or take the URL from `url`";

/// The file that lets VLC play RTSP.
const LIVE555: &str = "liblive555_plugin.so";

/// The players that are looked for, the one that plays best first.
pub const KNOWN: [&str; 4] = ["mpv", "vlc", "ffplay", "gst-play-1.0"];

/// A player and how it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Player {
    /// Its name, for people.
    pub name: String,
    program: PathBuf,
    first: Vec<String>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mpv,
    Vlc,
    Ffplay,
    GstPlay,
    Other,
}

impl Player {
    fn new(name: &str, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind(&program),
            program,
            first: Vec::new(),
        }
    }

    /// Whether it can be told where in the film to begin.
    pub fn can_begin_later(&self) -> bool {
        self.kind != Kind::Other
    }

    /// The program, and what to start it with to play `url` under a title, from this place in the
    /// film on if it can be told. In the background it has no terminal to listen to.
    pub fn command(
        &self,
        url: &str,
        title: &str,
        background: bool,
        from: Option<Duration>,
    ) -> (PathBuf, Vec<String>) {
        let mut words = self.first.clone();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        if let Some(from) = from.map(|from| format!("{:.3}", from.as_secs_f64())) {
            match self.kind {
                Kind::Mpv => add(&[&format!("--start={from}")]),
                Kind::Vlc => add(&[&format!("--start-time={from}")]),
                Kind::Ffplay => add(&["-ss", &from]),
                Kind::GstPlay => add(&[&format!("--start-position={from}")]),
                Kind::Other => {}
            }
        }
        match self.kind {
            // TCP: a film is worth more complete than a few milliseconds sooner.
            Kind::Mpv => {
                add(&[
                    "--rtsp-transport=tcp",
                    &format!("--force-media-title={title}"),
                ]);
                if background {
                    add(&["--input-terminal=no", "--really-quiet"]);
                }
                add(&["--"]);
            }
            Kind::Vlc => add(&[
                "--rtsp-tcp",
                "--play-and-exit",
                &format!("--meta-title={title}"),
            ]),
            Kind::Ffplay => {
                add(&[
                    "-loglevel",
                    "warning",
                    "-rtsp_transport",
                    "tcp",
                    "-autoexit",
                ]);
                add(&["-window_title", title, "-i"]);
            }
            Kind::GstPlay if background => add(&["--no-interactive", "--quiet"]),
            Kind::GstPlay | Kind::Other => {}
        }
        add(&[url]);
        (self.program.clone(), words)
    }
}

fn kind(program: &Path) -> Kind {
    match program.file_name().and_then(|name| name.to_str()) {
        Some("mpv") => Kind::Mpv,
        Some("vlc" | "cvlc" | "nvlc" | "qvlc" | "rvlc") => Kind::Vlc,
        Some("ffplay") => Kind::Ffplay,
        Some("gst-play-1.0") => Kind::GstPlay,
        _ => Kind::Other,
    }
}

/// Where players may be.
#[derive(Debug, Clone)]
pub struct Search {
    /// The directories of `$PATH`.
    path: Vec<PathBuf>,
    /// The user's home.
    home: Option<PathBuf>,
    /// Where VLC is told to look for plugins.
    vlc_plugins: Option<PathBuf>,
    /// The file system's root; tests have their own.
    root: PathBuf,
}

impl Search {
    /// As this process's environment says.
    pub fn new(env: &Environment) -> Self {
        Self {
            path: env
                .var("PATH")
                .map(|path: &OsString| std::env::split_paths(path).collect())
                .unwrap_or_default(),
            home: env.var("HOME").map(PathBuf::from),
            vlc_plugins: env.var("VLC_PLUGIN_PATH").map(PathBuf::from),
            root: PathBuf::from("/"),
        }
    }

    /// The player to use: the wanted one, or the best there is.
    pub fn find(&self, wanted: Option<&str>) -> Result<Player, Error> {
        match wanted {
            Some(wanted) => self.wanted(wanted),
            None => self.best(),
        }
    }

    fn wanted(&self, wanted: &str) -> Result<Player, Error> {
        if wanted.is_empty() {
            return Err(Error::Usage("--player wants a name or a path".into()));
        }
        let found = if wanted.contains('/') {
            Some(PathBuf::from(wanted)).filter(|path| is_program(path))
        } else {
            self.on_path(wanted)
        };
        let packaged = || match kind(Path::new(wanted)) {
            Kind::Vlc => self.packaged_vlc(),
            _ => None,
        };
        match found {
            Some(program) if kind(&program) == Kind::Vlc && !self.can_rtsp(&program) => packaged()
                .ok_or_else(|| {
                    Error::Failed(format!(
                        "{} cannot play RTSP: it was built without live555, as Debian's and \
                         Ubuntu's are. Install VLC from Flatpak (org.videolan.VLC) or Snap, or \
                         use another player: {INSTALL}",
                        program.display()
                    ))
                }),
            Some(program) => Ok(Player::new(wanted, program)),
            None => packaged().ok_or_else(|| {
                Error::Failed(format!("the player {wanted} was not found; {INSTALL}"))
            }),
        }
    }

    fn best(&self) -> Result<Player, Error> {
        let mut mute_vlc = false;
        for name in KNOWN {
            if let Some(program) = self.on_path(name) {
                if kind(&program) != Kind::Vlc || self.can_rtsp(&program) {
                    return Ok(Player::new(name, program));
                }
                mute_vlc = true;
            }
            if kind(Path::new(name)) == Kind::Vlc
                && let Some(player) = self.packaged_vlc()
            {
                return Ok(player);
            }
        }
        let why = match mute_vlc {
            true => "the only player found is a VLC that cannot play RTSP (built without live555)",
            false => "no player that can play RTSP was found",
        };
        Err(Error::Failed(format!("{why}; {INSTALL}")))
    }

    fn on_path(&self, name: &str) -> Option<PathBuf> {
        let candidates = self.path.iter().map(|dir| dir.join(name));
        candidates.into_iter().find(|path| is_program(path))
    }

    /// A VLC from Flatpak or Snap: those have live555.
    fn packaged_vlc(&self) -> Option<Player> {
        const APP: &str = "org.videolan.VLC";
        let snap = self.root.join("snap/bin/vlc");
        if is_program(&snap) {
            return Some(Player::new("vlc (Snap)", snap));
        }
        let system = self.root.join("var/lib/flatpak/app").join(APP);
        let own = self
            .home
            .as_ref()
            .map(|home| home.join(".local/share/flatpak/app").join(APP));
        let installed = system.is_dir() || own.is_some_and(|own| own.is_dir());
        let flatpak = self.on_path("flatpak").filter(|_| installed)?;
        Some(Player {
            name: "vlc (Flatpak)".into(),
            program: flatpak,
            first: vec!["run".into(), APP.into()],
            kind: Kind::Vlc,
        })
    }

    /// Whether a VLC has the plugin that speaks RTSP.
    fn can_rtsp(&self, vlc: &Path) -> bool {
        let real = fs::canonicalize(vlc).unwrap_or_else(|_| vlc.to_owned());
        let snap = self.root.join("snap");
        // A Snap's command is a link to the snap program itself.
        if vlc.starts_with(&snap) || real.starts_with(&snap) || real.ends_with("bin/snap") {
            return true;
        }
        // PREFIX/bin/vlc has its plugins in PREFIX/lib[64][/TRIPLET]/vlc/plugins.
        let mut libraries = vec![self.root.join("usr/lib"), self.root.join("usr/lib64")];
        if let Some(prefix) = real.parent().and_then(Path::parent) {
            libraries.extend([prefix.join("lib"), prefix.join("lib64")]);
        }
        let triplets = |lib: &PathBuf| {
            let below = fs::read_dir(lib)
                .into_iter()
                .flatten()
                .filter_map(Result::ok);
            below.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let nested: Vec<PathBuf> = libraries.iter().flat_map(triplets).collect();
        libraries
            .into_iter()
            .chain(nested)
            .map(|lib| lib.join("vlc/plugins"))
            .chain(self.vlc_plugins.clone())
            .any(|plugins| {
                plugins.join("access").join(LIVE555).exists() || plugins.join(LIVE555).exists()
            })
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(programs: &[&str]) -> Self {
            let fake = Fake(tempfile::tempdir().unwrap());
            for program in programs {
                fake.put(program, 0o755);
            }
            fake
        }

        fn put(&self, path: &str, mode: u32) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }

        fn search(&self) -> Search {
            let root = self.0.path().canonicalize().unwrap();
            Search {
                path: vec![root.join("usr/local/bin"), root.join("usr/bin")],
                home: Some(root.join("home")),
                vlc_plugins: None,
                root,
            }
        }

        fn best(&self) -> String {
            match self.search().find(None) {
                Ok(player) => player.name,
                Err(error) => error.to_string(),
            }
        }
    }

    const PLUGIN: &str = "usr/lib/x86_64-linux-gnu/vlc/plugins/access/liblive555_plugin.so";

    #[test]
    fn the_best_player_is_taken() {
        let all = [
            "usr/bin/gst-play-1.0",
            "usr/bin/ffplay",
            "usr/bin/vlc",
            "usr/bin/mpv",
        ];
        let fake = Fake::new(&all);
        assert_eq!(fake.best(), "mpv");
        assert_eq!(Fake::new(&all[..3]).best(), "ffplay", "that vlc cannot");
        assert_eq!(Fake::new(&all[..1]).best(), "gst-play-1.0");
        fs::remove_file(fake.0.path().join(all[3])).unwrap();
        fake.put(PLUGIN, 0o644);
        assert_eq!(fake.best(), "vlc");
    }

    #[test]
    fn without_a_player_it_says_what_to_install() {
        let none = Fake::new(&[]).best();
        assert!(none.contains("apt install mpv"), "{none}");
        let mute = Fake::new(&["usr/bin/vlc"]).best();
        assert!(
            mute.contains("live555") && mute.contains("install mpv"),
            "{mute}"
        );
        let fake = Fake::new(&[]);
        fake.put("usr/bin/mpv", 0o644);
        assert!(
            fake.best().contains("install"),
            "a file that cannot be run is no player"
        );
    }

    #[test]
    fn packaged_vlcs_are_found() {
        assert_eq!(Fake::new(&["snap/bin/vlc"]).best(), "vlc (Snap)");
        let flatpak = Fake::new(&["usr/bin/flatpak", "usr/bin/vlc"]);
        assert!(flatpak.best().contains("install"));
        fs::create_dir_all(
            flatpak
                .0
                .path()
                .join("home/.local/share/flatpak/app/org.videolan.VLC"),
        )
        .unwrap();
        assert_eq!(flatpak.best(), "vlc (Flatpak)");
        let player = flatpak.search().find(Some("vlc")).unwrap();
        let (_, words) = player.command("rtsp://x", "t", false, None);
        assert_eq!(words[..2], ["run", "org.videolan.VLC"]);
    }

    #[test]
    fn a_wanted_player_is_taken_or_explained() {
        let fake = Fake::new(&["usr/bin/vlc", "usr/bin/mpv", "usr/bin/mine"]);
        let search = fake.search();
        let error = search.find(Some("vlc")).unwrap_err();
        assert!(error.to_string().contains("live555"), "{error}");
        assert_eq!(error.exit_code(), 1);
        let path = fake.0.path().join("usr/bin/vlc");
        assert!(search.find(path.to_str()).is_err());
        assert!(search.find(Some("mine")).is_ok());
        assert!(
            search
                .find(Some("absent"))
                .unwrap_err()
                .to_string()
                .contains("absent")
        );
        assert!(search.find(Some("/absent/mpv")).is_err());
        fake.put(PLUGIN, 0o644);
        assert!(search.find(Some("vlc")).is_ok());
    }

    #[test]
    fn a_player_is_told_where_to_begin_if_it_can_be() {
        let from = Some(Duration::from_millis(83_250));
        for (name, words) in [
            ("mpv", &["--start=83.250"][..]),
            ("vlc", &["--start-time=83.250"]),
            ("ffplay", &["-ss", "83.250"]),
            ("gst-play-1.0", &["--start-position=83.250"]),
        ] {
            let player = Player::new(name, PathBuf::from("/usr/bin").join(name));
            assert!(player.can_begin_later());
            let (_, told) = player.command("rtsp://h/1", "film", false, from);
            assert_eq!(told[..words.len()], *words, "{name}");
            assert_eq!(told.last().unwrap(), "rtsp://h/1");
        }
        let mine = Player::new("mine", "/usr/bin/mine".into());
        assert!(!mine.can_begin_later());
        let (_, told) = mine.command("rtsp://h/1", "film", false, from);
        assert_eq!(told, ["rtsp://h/1"]);
    }

    #[test]
    fn the_url_comes_last_and_a_title_is_no_option() {
        for name in ["mpv", "vlc", "ffplay", "gst-play-1.0", "mine"] {
            let player = Player::new(name, PathBuf::from("/usr/bin").join(name));
            for background in [false, true] {
                let (program, words) = player.command("rtsp://h/1", "-rf", background, None);
                assert_eq!(program, Path::new("/usr/bin").join(name));
                assert_eq!(words.last().unwrap(), "rtsp://h/1");
                let bare = words.iter().position(|word| word == "-rf");
                assert!(
                    bare.is_none_or(|at| words[at - 1] == "-window_title"),
                    "{words:?}"
                );
            }
        }
    }
}
