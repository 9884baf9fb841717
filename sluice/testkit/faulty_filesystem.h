// A file system that fails where a test says so, and counts what is asked of it.
//
//     FaultyFileSystem files(system_runtime().files());
//     files.fail({.operation = FileOperation::append, .path_part = "journal/", .nth = 3, .fault =
//     FileFault::disk_full}); FaultyRuntime runtime(system_runtime(), files);    // a whole engine on it
//     ...
//     EXPECT_EQ(files.count(FileOperation::sync, "journal/"), 2);
//
// For a program's own tests of what it does when the disk is full. Which operation fails is the script's alone, so a
// test fails the same way each time; faults by chance are the simulation's (`SimulationOptions`), which can be wrapped
// as well.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/runtime/runtime.h"
#include "sluice/testkit/forwarding_runtime.h"

namespace sluice::testing {

/// The operations of `FileSystem`, then those of `File`.
enum class FileOperation {
  open,
  open_append,
  create,
  rename,
  rename_new,
  remove,
  make_directories,
  sync_directory,
  list,
  stat,
  read_at,
  append,
  write_at,
  sync,
  truncate,
  info,
};

/// How an operation fails. But for `short_write`, nothing of it happens. `sync` and `sync_directory` end the process
/// (see `on_failed_sync`), all others throw SLU-401.
enum class FileFault {
  /// ENOSPC.
  disk_full,
  /// EIO.
  io_error,
  /// The first half of the bytes of an `append` or `write_at` is written, then the disk is full.
  short_write,
};

/// One line of the script: the `nth` operation of that kind whose path contains `path_part` fails, and the following
/// ones, `times` in all. Counting begins when the line is added. Of `rename` and `rename_new`, the path is the target.
struct FileFailure {
  FileOperation operation{};
  std::string path_part{};
  std::uint64_t nth = 1;
  std::uint64_t times = 1;
  FileFault fault = FileFault::io_error;
};

/// See the head of this file. Threads: as any FileSystem.
class FaultyFileSystem : public FileSystem {
 public:
  /// `base` must outlive it.
  explicit FaultyFileSystem(FileSystem& base);
  ~FaultyFileSystem() override;

  /// Adds a line to the script.
  void fail(FileFailure failure);
  /// Forgets the script: nothing fails any more. What was counted stays.
  void mend();
  /// Called with the path in place of a sync that is to fail. It should not return, as the real one does not: the
  /// default writes a line and aborts. If it does, the sync throws SLU-401. Not while others use the file system.
  void on_failed_sync(std::function<void(const std::string&)> call);
  /// Operations so far of that kind whose path contains `path_part`, failed ones included. Cost: O(paths seen).
  std::uint64_t count(FileOperation operation, std::string_view path_part = {}) const;
  /// Operations that failed by the script.
  std::uint64_t failures() const;

  std::unique_ptr<File> open(const std::string& path) override;
  std::unique_ptr<File> open_append(const std::string& path) override;
  std::unique_ptr<File> create(const std::string& path) override;
  std::unique_ptr<File> create_private(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  bool rename_new(const std::string& from, const std::string& to) override;
  bool remove(const std::string& path) override;
  void make_directories(const std::string& path) override;
  void sync_directory(const std::string& path) override;
  std::optional<std::vector<FileInfo>> list(const std::string& path) override;
  std::optional<FileInfo> stat(const std::string& path) override;

 private:
  class FaultyFile;

  std::optional<FileFault> next_fault(FileOperation operation, const std::string& path);
  void begin(FileOperation operation, const std::string& path);
  void begin_sync(FileOperation operation, const std::string& path);

  FileSystem& base_;
  std::function<void(const std::string&)> on_failed_sync_;
  mutable std::mutex mutex_;
  std::vector<FileFailure> script_;
  std::map<std::pair<FileOperation, std::string>, std::uint64_t> counts_;
  std::uint64_t failures_ = 0;
};

/// `base` with other files: what an engine is given to run on a FaultyFileSystem. Both must outlive it.
class FaultyRuntime : public ForwardingRuntime {
 public:
  FaultyRuntime(Runtime& base, FaultyFileSystem& files) : ForwardingRuntime(base), files_(files) {}
  FileSystem& files() override { return files_; }

 private:
  FaultyFileSystem& files_;
};

}  // namespace sluice::testing
