//! Kills the processes of a pod without warning, as a fault of the machine would.
//!
//! `kubectl delete` sends SIGTERM first, whatever the grace period, and the first process of a pod cannot be killed
//! from inside the pod. So this runs on the pod's node, in the node's process namespace (`hostPID`).

use std::{fs, io, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

/// The sandbox process, which holds the network namespace of the pod. Without it, the pod itself would be replaced.
const SANDBOX: &str = "pause";

/// A killed process, as a line of output.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Killed {
    /// Its process id.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// Kills every process of the pod with this UID. Returns whether there was one.
///
/// # Errors
/// Returns an error if the processes cannot be listed, or one cannot be killed.
pub fn run(pod: &str, print: impl FnMut(&Killed)) -> io::Result<bool> {
    kill_in(Path::new("/proc"), pod, print)
}

fn kill_in(processes: &Path, pod: &str, mut print: impl FnMut(&Killed)) -> io::Result<bool> {
    // systemd replaces hyphens in the names of cgroups.
    let [id, other] = [pod.to_owned(), pod.replace('-', "_")];
    let mut any = false;
    for entry in fs::read_dir(processes)? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        // The files are gone if the process has just exited.
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        let (cgroup, name) = (read("cgroup"), read("comm").trim().to_owned());
        if (cgroup.contains(&id) || cgroup.contains(&other)) && name != SANDBOX {
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
            print(&Killed { pid, name });
            any = true;
        }
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const POD: &str = "0b5f1c9e-7a57-4a0e-9d0b-1f2e3d4c5b6a";

    /// Starts a process, and writes the `/proc` files that describe it.
    fn process(processes: &Path, cgroup: &str, name: &str) -> std::process::Child {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("a process");
        let folder = processes.join(child.id().to_string());
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).expect("the file is written");
        fs::write(folder.join("comm"), format!("{name}\n")).expect("the file is written");
        child
    }

    #[test]
    fn only_the_processes_of_the_pod_are_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let underscored = POD.replace('-', "_");
        let mut pods = [
            process(folder.path(), &format!("/../burstable/pod{POD}/4711"), "service"),
            process(folder.path(), &format!("/kubepods.slice/kubepods-pod{underscored}.slice/cri-1.scope"), "service"),
        ];
        let mut others = [
            process(folder.path(), &format!("/kubepods/burstable/pod{POD}/4712"), SANDBOX),
            process(folder.path(), "/kubepods/burstable/pod5d2b3f57-7a57-4a0e-9d0b-1f2e3d4c5b6a/1", "service"),
        ];
        fs::write(folder.path().join("version"), "no process").expect("the file is written");
        let mut killed = Vec::new();
        assert!(kill_in(folder.path(), POD, |one| killed.push(one.pid)).expect("the processes can be killed"));
        let mut expected = pods.each_ref().map(|child| child.id().cast_signed());
        killed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(killed, expected);
        for pod in &mut pods {
            assert!(!pod.wait().expect("a child").success());
        }
        for other in &mut others {
            assert_eq!(other.try_wait().expect("a child"), None);
            other.kill().expect("the process is killed");
            other.wait().expect("a child");
        }
        assert!(!kill_in(folder.path(), "unknown", |_| ()).expect("nothing to kill"));
    }
}
