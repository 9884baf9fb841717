// Files behind an interface, so that a test can lose, reorder and refuse writes.
//
// Threads: a FileSystem is safe from all threads; a File is used by one thread at a time, but for `read_at` and `info`,
// which any number of threads may call at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/clock.h"

namespace sluice {

/// What is known of a file. Identity of a file is (path, inode, birth): times are compared for equality only, because
/// inodes are used again at once and clocks lie.
struct FileInfo {
  std::string path;
  std::uint64_t size_bytes = 0;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  /// Birth time; the epoch where the file system does not keep one.
  Time birth{};
  Time modified{};
  bool is_directory = false;
  /// Permission bits: 0644.
  unsigned mode = 0;
  /// The path itself is a symbolic link. All else describes what it leads to; of a dangling link, the link.
  bool is_link = false;

  bool same_file(const FileInfo& other) const {
    return device == other.device && inode == other.inode && birth == other.birth;
  }
};

/// Who may read a file.
enum class Readers { everyone, owner };

/// An open file. Closes itself; closing never flushes to disk, `sync()` does.
class File {
 public:
  virtual ~File() = default;
  /// Reads up to `into.size()` bytes at `offset`; returns how many, 0 at the end of the file. Errors: SLU-401.
  virtual std::size_t read_at(std::uint64_t offset, std::span<char> into) = 0;
  /// Writes all of `bytes` at the end. Errors: SLU-401 (disk full, EIO), after which any part may have been written.
  virtual void append(std::string_view bytes) = 0;
  /// Writes all of `bytes` at `offset`, over what is there and beyond it; a gap before them reads as zeros. Until the
  /// next sync, a crash leaves any part of them. Only for files of `create`: those of `open_append` refuse it, because
  /// Linux writes at the end of a file opened so, whatever the offset. Errors: SLU-401.
  virtual void write_at(std::uint64_t offset, std::string_view bytes) = 0;
  /// Returns when all that was written is on the disk. A failed sync ends the process: the kernel may have dropped
  /// the pages, and a second sync would lie (PostgreSQL's fsync lesson).
  virtual void sync() = 0;
  /// Cuts the file to `size_bytes`.
  virtual void truncate(std::uint64_t size_bytes) = 0;
  virtual FileInfo info() = 0;
};

/// A tree of files. Paths are POSIX paths. Errors are SLU-401 with path and reason, unless said otherwise.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  /// Opens for reading; nullptr when there is no such file.
  virtual std::unique_ptr<File> open(const std::string& path) = 0;
  /// Opens for appending, creating it when missing. Each append goes to the end, whoever else appends.
  virtual std::unique_ptr<File> open_append(const std::string& path) = 0;
  /// Creates an empty file, replacing an older one of that name. Nobody else may write to it while it is open.
  virtual std::unique_ptr<File> create(const std::string& path) = 0;
  /// Creates a file for secrets: from its first instant on only its owner may read and write it (mode 0600). Errors:
  /// SLU-401, also when something has the name.
  virtual std::unique_ptr<File> create_private(const std::string& path) = 0;
  /// Moves atomically, replacing the target. Durable only after `sync_directory` of the target's directory.
  virtual void rename(const std::string& from, const std::string& to) = 0;
  /// Moves atomically if nothing has the name `to`; else returns false and changes nothing. Of any number of callers,
  /// in all processes, one succeeds. Durable as `rename`. On file systems that cannot do it in one step (it is then a
  /// link and a removal; directories are refused) a crash can leave both names.
  virtual bool rename_new(const std::string& from, const std::string& to) = 0;
  /// Removes a file or an empty directory; false when there was none.
  virtual bool remove(const std::string& path) = 0;
  /// Makes the directory and its parents; no error when it is there. Durable when it returns, also if it was made by a
  /// process that died on the way. Cost: a sync for each name made and one for the lowest that was there.
  virtual void make_directories(const std::string& path) = 0;
  /// Makes created, renamed and removed names of the directory durable.
  virtual void sync_directory(const std::string& path) = 0;
  /// What lies directly in the directory, ordered by path; nullopt when there is no such directory.
  virtual std::optional<std::vector<FileInfo>> list(const std::string& path) = 0;
  /// nullopt when there is none.
  virtual std::optional<FileInfo> stat(const std::string& path) = 0;

  /// Whether its paths are those of the operating system, so that a library which opens files itself may be given them.
  virtual bool is_local() const { return false; }

  /// Writes `bytes` so that after a crash at any instant `path` holds either the old content or all of the new one:
  /// temporary name, sync, rename, directory sync. The temporary lies beside `path`, its name begins with '.' and ends
  /// with ".tmp"; a crash can leave one behind, which is never read and may be removed by the directory's owner.
  void publish(const std::string& path, std::string_view bytes, Readers readers = Readers::everyone);
  /// The same if nothing has the name `path`; else returns false and changes nothing. So a name can be taken by one of
  /// several processes (compare and set): the next epoch of a directory, for instance.
  bool publish_new(const std::string& path, std::string_view bytes, Readers readers = Readers::everyone);
  /// Whether this is the name of what a crash has left behind of publishing a file whose name begins so.
  static bool is_temporary(std::string_view name, std::string_view begins);
  /// Removes a directory with all it holds (links, not what they lead to); false when there was none.
  bool remove_all(const std::string& path);

 protected:
  /// `tag` keeps the temporary names of this object apart from those of other processes that publish to the same
  /// directory, as a driver and the one it replaces may. A simulation leaves it 0 and repeats its names.
  explicit FileSystem(std::uint64_t tag = 0) : tag_(tag) {}

 private:
  std::string temporary_name(const std::string& path);

  const std::uint64_t tag_;
  std::atomic<std::uint64_t> publish_count_{0};
};

/// The last part of a path, behind its last slash.
std::string_view base_name(std::string_view path);
/// The whole content. Errors: SLU-411 when missing, SLU-305 when larger than `bytes_max`.
std::string read_file(FileSystem& files, const std::string& path, std::uint64_t bytes_max = 1ULL << 30);

/// "a/b" of "a/b/c"; "." when there is no slash.
std::string parent_path(std::string_view path);

}  // namespace sluice
