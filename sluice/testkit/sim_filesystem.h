// The disk of a simulation: what the process sees, what the disk holds, and what lies between.
//
// Invariants:
// D1. `entries` and `content` are what the process sees. `durable_entries` and `durable` are what is on the disk for
//     certain. `unsynced` (of a file) and `name_changes_` (of directories) lead from the second to the first.
// D2. A node has at most one name, both as seen and on the disk.
// D3. Each change of names has a number. A place on the disk is never set back by a change with a smaller number, so
//     changes may reach the disk in any order.
// D4. An inode number is used again as soon as its file has no name and no open handle, as real file systems do. The
//     creation that uses it reaches the disk only together with the removal that freed it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sluice/runtime/filesystem.h"
#include "sluice/testkit/sim_scheduler.h"

namespace sluice::testing::detail {

/// What a file was opened for.
enum class SimAccess { read, append, rewrite };

/// See the head of this file and `Simulation`. Paths start at "/" whether they say so or not.
class SimFileSystem final : public FileSystem {
 public:
  explicit SimFileSystem(Scheduler& scheduler);
  ~SimFileSystem() override;

  std::unique_ptr<File> open(const std::string& path) override;
  std::unique_ptr<File> open_append(const std::string& path) override;
  /// As the system's: an older file of that name is cut to nothing and stays the same file.
  std::unique_ptr<File> create(const std::string& path) override;
  std::unique_ptr<File> create_private(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  bool rename_new(const std::string& from, const std::string& to) override;
  bool remove(const std::string& path) override;
  void make_directories(const std::string& path) override;
  void sync_directory(const std::string& path) override;
  std::optional<std::vector<FileInfo>> list(const std::string& path) override;
  std::optional<FileInfo> stat(const std::string& path) override;

  /// The machine stops: decides by chance what of the unsynced is on the disk.
  void crash();

 private:
  friend class SimFile;
  struct Node;
  struct Change;
  using NodePtr = std::shared_ptr<Node>;
  using Number = std::uint64_t;

  /// Where a name is, or would be: the directory it lies in and the last part of its path.
  struct Place {
    NodePtr directory;
    std::string name;
  };
  /// A node gets the name `to`, loses any other, and replaces what had that name; without `to` it loses its name.
  struct NameChange {
    NodePtr node;
    NodePtr from;  // the directory it leaves, if any
    Place to;
    NodePtr replaced;           // what had the name `to`
    std::vector<Number> needs;  // changes that reach the disk before this one
  };
  struct FreeInode {
    Number inode = 0;
    Number freed_by = 0;
  };

  void begin(const char* operation, const std::string& path);
  NodePtr find(const std::string& path) const;
  std::optional<Place> place(const std::string& path) const;
  static FileInfo info(const Node& node, std::string path);
  NodePtr make_node(const Place& at, bool is_directory);
  std::unique_ptr<File> open_to_write(const char* operation, const std::string& path, SimAccess access,
                                      Readers readers = Readers::everyone);
  void move(const std::string& from, const std::string& to);
  void take_name(const NodePtr& node, Number change);
  void free_if_unused(Node& node);
  void commit(Number number);
  void decide_names();
  void decide_content(Node& file);
  void tear(const Change& change, std::string& content);
  void settle(const NodePtr& directory, std::vector<Number>& inodes);

  Scheduler& scheduler_;
  NodePtr root_;
  std::map<Number, NameChange> name_changes_;
  Number change_count_ = 0;
  std::vector<FreeInode> free_inodes_;
  Number inode_count_ = 1;
  Time last_birth_;
  // Handles of an earlier machine or process are invalid.
  std::uint64_t machine_ = 0;
};

}  // namespace sluice::testing::detail
