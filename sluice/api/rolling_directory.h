// The directory of a rolling files sink: one hidden file that grows, finished ones, and the manifest that names these.
//
//     DIR/000000000012-3.txt          a finished file: number, epoch of the run that made it
//     DIR/.000000000013-3.txt.open    the one that grows
//     DIR/.sluice/manifest-N          which files are finished; the largest N counts (docs/formats.md, "Rolling files")
//
// A file is finished by the next manifest, whose name is taken by compare and set, and then gets its name. So of two
// drivers one only can finish anything, and a name without a dot is always that of a whole file.
//
// Invariants:
//  R1. What `commit` returns names the open file and its length; when it is called again, that has been noted. So the
//      open file, up to that length, holds noted batches only, and may be finished before the next one is added.
//  R2. Bytes beyond the length are of a batch that failed or was cut off. They are cut off before anything is added.
//  R3. A run never adds to a file of another run: it begins with a copy of what was noted. A driver that has been
//      replaced and does not know it yet writes to a file that has lost its name.
//  R4. A manifest is only ever followed by its own successor: who finds the next number taken has been replaced.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/api/sink.h"
#include "sluice/runtime/filesystem.h"

namespace sluice::detail {

/// A finished file.
struct RollingEntry {
  std::string name;
  std::uint64_t bytes = 0;
  /// CRC32C of its bytes.
  std::uint32_t checksum = 0;
};

/// A file that grows, as far as it is noted.
struct RollingOpen {
  std::string name;
  std::uint64_t number = 0;
  std::uint64_t bytes = 0;
  std::uint32_t checksum = 0;
  Time opened{};
};

/// What DIR/.sluice/manifest-N says.
struct RollingManifest {
  /// N; 0: there is none yet.
  std::uint64_t number = 0;
  /// What the files hold: "text", or the schema of their records.
  std::string kind;
  std::string app;
  std::string output;
  std::uint64_t epoch = 0;
  /// Of the files so far.
  std::uint64_t last_number = 0;
  /// The open file that this run found under `taken_name`, and goes on with under a name of its own.
  std::string taken_name;
  RollingOpen taken;
  /// In the order in which they were finished.
  std::vector<RollingEntry> files;
};

/// The bytes of a manifest, and back. Errors: SLU-301, SLU-302, SLU-303.
std::string encode_rolling_manifest(const RollingManifest& manifest);
RollingManifest decode_rolling_manifest(std::uint64_t number, std::string_view bytes);
/// The newest one; number 0 where there is none. Errors: those of reading it, naming the file; SLU-401.
RollingManifest read_rolling_manifest(FileSystem& files, const std::string& directory);
/// Under its final name, or the one it had while it grew if that is all it has yet.
std::string rolling_file_path(FileSystem& files, const std::string& directory, const RollingEntry& entry);

/// See the head of this file. Threads: one at a time.
class RollingDirectory {
 public:
  struct Options {
    std::string path;
    std::uint64_t bytes = 0;
    Duration age{};
    std::string suffix;
    std::string kind;
  };
  explicit RollingDirectory(Options options) : options_(std::move(options)) {}

  /// Takes the directory over. Errors: SLU-109 when it is another output's, SLU-209, SLU-301 when what was noted is not
  /// there, SLU-401.
  void start(const SinkStart& start);
  /// Adds a batch, and finishes the file before if it is time. Returns what `start` is to be told.
  /// Errors: SLU-209, SLU-401; nothing of the batch stays.
  std::string commit(const std::vector<std::string>& parts);
  /// Finishes the open file.
  void close();

 private:
  FileSystem& files() { return runtime_->files(); }
  std::string hidden_path(const std::string& name) const;
  std::string name_of(std::uint64_t number, std::uint64_t epoch) const;
  void check_owner(const RollingManifest& manifest, const SinkStart& start) const;
  /// Where what was noted lies now; nothing when it is finished.
  std::optional<RollingOpen> find_noted(const RollingOpen& noted) const;
  void copy_noted(const RollingOpen& from, const std::string& to_name);
  void leave_out_removed(RollingManifest& manifest);
  bool publish_manifest(RollingManifest next);
  bool take_over(const SinkStart& start);
  bool is_replaced();
  [[noreturn]] void fail_replaced();
  /// Errors of f that come of a takeover in the middle of it become SLU-209.
  template <class F>
  void unless_replaced(const F& f);
  void remove_old_manifests();
  void remove_strays();
  bool is_due() const;
  void finish_open();
  void give_names();
  void append(const std::vector<std::string>& parts);

  const Options options_;
  Runtime* runtime_ = nullptr;
  RollingManifest manifest_;
  std::optional<RollingOpen> open_;
  std::unique_ptr<File> file_;
  std::uint64_t last_number_ = 0;
  /// In the manifest, and still hidden.
  std::vector<std::string> without_name_;
};

}  // namespace sluice::detail
