#include "sluice/testkit/sim_filesystem.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "sluice/runtime/errors.h"

namespace sluice::testing::detail {
namespace {

// The first inode number that a file can get; ext4 keeps those below for itself, too.
constexpr std::uint64_t first_inode = 12;

[[noreturn]] void fail(std::string_view operation, const std::string& path, std::string_view reason) {
  throw Error(Code::io_failed, {.why = std::string(operation) + " " + path + ": " + std::string(reason)});
}

std::vector<std::string> parts_of(std::string_view path) {
  std::vector<std::string> parts;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, slash);
    path.remove_prefix(std::min(slash + 1, path.size()));
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      parts.emplace_back(part);
    } else if (!parts.empty()) {
      parts.pop_back();
    }
  }
  return parts;
}

}  // namespace

/// An unsynced change of the content: `bytes` at its end, `bytes` at `at`, or a cut to the size `at`.
struct SimFileSystem::Change {
  enum class Kind { append, overwrite, cut };
  Kind kind;
  std::uint64_t at = 0;
  std::string bytes{};

  void apply(std::string& content) const {
    switch (kind) {
      case Kind::append: content += bytes; return;
      case Kind::overwrite: write(content, at, bytes); return;
      case Kind::cut: content.resize(static_cast<std::size_t>(at)); return;
    }
  }
  static void write(std::string& content, std::uint64_t at, std::string_view bytes) {
    const std::size_t offset = static_cast<std::size_t>(at);
    if (content.size() < offset + bytes.size()) content.resize(offset + bytes.size());
    content.replace(offset, bytes.size(), bytes);
  }
  bool lies_within(const std::string& content) const {
    return kind == Kind::overwrite && at + bytes.size() <= content.size();
  }
};

struct SimFileSystem::Node {
  /// What the disk holds under a name, and the number of the change that put it there (D3).
  struct Slot {
    NodePtr node;
    Number changed_by = 0;
  };

  Number inode = 0;
  /// The change that took the last name of the file that had this inode number before.
  Number inode_freed_by = 0;
  Time birth;
  Time modified;
  bool is_directory = false;
  unsigned mode = 0644;

  bool has_name = true;
  Number unnamed_by = 0;
  /// Open handles, and the (machine, life) they belong to.
  std::size_t handles = 0;
  std::pair<std::uint64_t, std::uint64_t> handles_of;

  std::string content;
  std::string durable;
  std::vector<Change> unsynced;

  std::map<std::string, NodePtr> entries;
  std::map<std::string, Slot> durable_entries;

  /// The name on the disk, if it has one, and the number of the change that last gave or took it.
  Node* durable_directory = nullptr;
  std::string durable_name;
  Number durable_changed_by = 0;

  void change(Change made) {
    made.apply(content);
    unsynced.push_back(std::move(made));
  }
  void sync() {
    for (const Change& each : unsynced) each.apply(durable);
    unsynced.clear();
  }
  /// Loses its name on the disk, unless a change with a greater number has given or taken it.
  bool moves_by(Number number) {
    if (durable_changed_by > number) return false;
    lose_durable_name();
    durable_changed_by = number;
    return true;
  }
  void lose_durable_name() {
    if (durable_directory != nullptr) durable_directory->durable_entries[durable_name].node = nullptr;
    durable_directory = nullptr;
  }
};

/// An open file.
class SimFile final : public File {
 public:
  SimFile(SimFileSystem& files, SimFileSystem::NodePtr node, std::string path, SimAccess access)
      : files_(files), node_(std::move(node)), path_(std::move(path)), access_(access), opened_in_(now_of(files)) {
    if (node_->handles_of != opened_in_) node_->handles = 0;
    node_->handles_of = opened_in_;
    ++node_->handles;
  }

  ~SimFile() override {
    if (opened_in_ != now_of(files_)) return;
    --node_->handles;
    files_.free_if_unused(*node_);
  }

  std::size_t read_at(std::uint64_t offset, std::span<char> into) override {
    begin("read");
    const std::string& content = node_->content;
    if (offset >= content.size()) return 0;
    return content.copy(into.data(), into.size(), static_cast<std::size_t>(offset));
  }

  void append(std::string_view bytes) override {
    begin_write("write");
    write(Change::Kind::append, 0, bytes);
  }

  void write_at(std::uint64_t offset, std::string_view bytes) override {
    begin_write("write at");
    if (access_ == SimAccess::append) fail("write at", path_, "it is open for appending only");
    files_.scheduler_.trace(offset);
    write(Change::Kind::overwrite, offset, bytes);
  }

  void sync() override {
    begin("sync");
    Scheduler& scheduler = files_.scheduler_;
    if (scheduler.random().chance(scheduler.options().sync_failure)) scheduler.crash("sync of " + path_ + " failed");
    node_->sync();
  }

  void truncate(std::uint64_t size_bytes) override {
    begin_write("truncate");
    files_.scheduler_.trace(size_bytes);
    node_->modified = files_.scheduler_.now();
    node_->change({.kind = Change::Kind::cut, .at = size_bytes});
  }

  FileInfo info() override {
    begin("stat");
    return SimFileSystem::info(*node_, path_);
  }

 private:
  using Change = SimFileSystem::Change;

  static std::pair<std::uint64_t, std::uint64_t> now_of(const SimFileSystem& files) {
    return {files.machine_, files.scheduler_.life()};
  }

  void begin(const char* operation) {
    files_.begin(operation, path_);
    if (opened_in_ != now_of(files_)) fail(operation, path_, "the process that opened it is gone");
  }

  void begin_write(const char* operation) {
    begin(operation);
    if (access_ == SimAccess::read) fail(operation, path_, "Bad file descriptor (opened for reading)");
  }

  void write(Change::Kind kind, std::uint64_t at, std::string_view bytes) {
    Scheduler& scheduler = files_.scheduler_;
    const bool fails = scheduler.random().chance(scheduler.options().write_failure);
    if (fails) bytes = bytes.substr(0, static_cast<std::size_t>(scheduler.random().below(bytes.size() + 1)));
    scheduler.trace(bytes);
    node_->modified = scheduler.now();
    if (!bytes.empty()) node_->change({.kind = kind, .at = at, .bytes = std::string(bytes)});
    if (fails) fail("write", path_, "No space left on device");
  }

  SimFileSystem& files_;
  const SimFileSystem::NodePtr node_;
  const std::string path_;
  const SimAccess access_;
  const std::pair<std::uint64_t, std::uint64_t> opened_in_;
};

SimFileSystem::SimFileSystem(Scheduler& scheduler)
    : scheduler_(scheduler), root_(std::make_shared<Node>()), inode_count_(first_inode), last_birth_(scheduler.now()) {
  root_->inode = 2;
  root_->birth = root_->modified = scheduler.now();
  root_->is_directory = true;
}

SimFileSystem::~SimFileSystem() = default;

// Others may run before each operation, as they may before any system call.
void SimFileSystem::begin(const char* operation, const std::string& path) {
  scheduler_.pause();
  scheduler_.trace(operation);
  scheduler_.trace(path);
}

SimFileSystem::NodePtr SimFileSystem::find(const std::string& path) const {
  NodePtr node = root_;
  for (const std::string& part : parts_of(path)) {
    const auto at = node->entries.find(part);
    if (at == node->entries.end()) return nullptr;
    node = at->second;
  }
  // Only a directory may be called "a/".
  if (path.ends_with('/') && !node->is_directory) return nullptr;
  return node;
}

// nullopt when the directory is missing; the root has no place.
std::optional<SimFileSystem::Place> SimFileSystem::place(const std::string& path) const {
  std::vector<std::string> parts = parts_of(path);
  if (parts.empty()) return std::nullopt;
  Place place{root_, std::move(parts.back())};
  parts.pop_back();
  for (const std::string& part : parts) {
    const auto at = place.directory->entries.find(part);
    if (at == place.directory->entries.end()) return std::nullopt;
    place.directory = at->second;
  }
  if (!place.directory->is_directory) return std::nullopt;
  return place;
}

FileInfo SimFileSystem::info(const Node& node, std::string path) {
  FileInfo info;
  info.path = std::move(path);
  info.size_bytes = node.is_directory ? 4'096 : node.content.size();
  info.device = 1;
  info.inode = node.inode;
  info.birth = node.birth;
  info.modified = node.modified;
  info.is_directory = node.is_directory;
  info.mode = node.is_directory ? 0755 : node.mode;
  return info;
}

SimFileSystem::NodePtr SimFileSystem::make_node(const Place& at, bool is_directory) {
  const NodePtr node = std::make_shared<Node>();
  NameChange change{node, nullptr, at, nullptr, {}};
  if (free_inodes_.empty()) {
    node->inode = inode_count_++;
  } else {
    node->inode = free_inodes_.back().inode;
    node->inode_freed_by = free_inodes_.back().freed_by;
    change.needs.push_back(node->inode_freed_by);
    free_inodes_.pop_back();
  }
  // Virtual time may stand still between two creations; that of a real machine does not.
  last_birth_ = std::max(scheduler_.now(), last_birth_ + Duration(1));
  node->birth = last_birth_;
  node->modified = scheduler_.now();
  node->is_directory = is_directory;
  at.directory->entries[at.name] = node;
  at.directory->modified = scheduler_.now();
  name_changes_.emplace(++change_count_, std::move(change));
  return node;
}

std::unique_ptr<File> SimFileSystem::open(const std::string& path) {
  begin("open", path);
  NodePtr node = find(path);
  if (!node) return nullptr;
  if (node->is_directory) fail("open", path, "Is a directory");
  return std::make_unique<SimFile>(*this, std::move(node), path, SimAccess::read);
}

std::unique_ptr<File> SimFileSystem::open_append(const std::string& path) {
  return open_to_write("open", path, SimAccess::append);
}

std::unique_ptr<File> SimFileSystem::create(const std::string& path) {
  return open_to_write("create", path, SimAccess::rewrite);
}

std::unique_ptr<File> SimFileSystem::create_private(const std::string& path) {
  return open_to_write("create", path, SimAccess::rewrite, Readers::owner);
}

std::unique_ptr<File> SimFileSystem::open_to_write(const char* operation, const std::string& path, SimAccess access,
                                                   Readers readers) {
  begin(operation, path);
  NodePtr node = find(path);
  if (!node) {
    const std::optional<Place> at = place(path);
    if (!at || path.ends_with('/')) fail(operation, path, "No such directory");
    node = make_node(*at, false);
    if (readers == Readers::owner) node->mode = 0600;
  } else if (readers == Readers::owner) {
    fail(operation, path, "File exists");
  } else if (node->is_directory) {
    fail(operation, path, "Is a directory");
  } else if (access == SimAccess::rewrite) {
    node->modified = scheduler_.now();
    if (!node->content.empty()) node->change({.kind = Change::Kind::cut, .at = 0});
  }
  return std::make_unique<SimFile>(*this, std::move(node), path, access);
}

void SimFileSystem::rename(const std::string& from, const std::string& to) {
  begin("rename", from);
  scheduler_.trace(to);
  move(from, to);
}

bool SimFileSystem::rename_new(const std::string& from, const std::string& to) {
  begin("rename new", from);
  scheduler_.trace(to);
  if (find(from) && find(to)) return false;
  move(from, to);
  return true;
}

void SimFileSystem::move(const std::string& from, const std::string& to) {
  const auto refuse = [&](std::string_view reason) { fail("rename to " + to + " of", from, reason); };
  const NodePtr node = find(from);
  const std::optional<Place> old_place = place(from);
  const std::optional<Place> new_place = place(to);
  if (!node || !old_place) refuse("No such file or directory");
  if (!new_place) refuse("No such directory");
  const NodePtr replaced = find(to);
  if (replaced == node) return;
  if (replaced) {
    if (replaced->is_directory && !node->is_directory) refuse("Is a directory");
    if (!replaced->is_directory && node->is_directory) refuse("Not a directory");
    if (!replaced->entries.empty()) refuse("Directory not empty");
  }
  const std::vector<std::string> from_parts = parts_of(from);
  const std::vector<std::string> to_parts = parts_of(to);
  if (std::mismatch(from_parts.begin(), from_parts.end(), to_parts.begin(), to_parts.end()).first == from_parts.end()) {
    refuse("a directory cannot lie in itself");
  }

  name_changes_.emplace(++change_count_,
                        NameChange{node, old_place->directory, *new_place, replaced, {node->inode_freed_by}});
  old_place->directory->entries.erase(old_place->name);
  new_place->directory->entries[new_place->name] = node;
  old_place->directory->modified = new_place->directory->modified = scheduler_.now();
  if (replaced) take_name(replaced, change_count_);
}

bool SimFileSystem::remove(const std::string& path) {
  begin("remove", path);
  const NodePtr node = find(path);
  if (!node) return false;
  const std::optional<Place> at = place(path);
  if (!at) fail("remove", path, "Device or resource busy");
  if (!node->entries.empty()) fail("remove", path, "Directory not empty");
  NameChange change{node, at->directory, {}, nullptr, {}};
  // What was moved out of a directory is not lost with it.
  for (const auto& [number, earlier] : name_changes_) {
    if (node->is_directory && (earlier.from == node || earlier.to.directory == node)) change.needs.push_back(number);
  }
  name_changes_.emplace(++change_count_, std::move(change));
  at->directory->entries.erase(at->name);
  at->directory->modified = scheduler_.now();
  take_name(node, change_count_);
  return true;
}

// In the steps of the system's: a crash can come between any two.
void SimFileSystem::make_directories(const std::string& path) {
  begin("mkdir", path);
  const std::string parent = parent_path(path);
  if (!find(path)) {
    if (!place(path)) {
      make_directories(parent);
      begin("mkdir", path);
    } else {
      // Whoever made the directory that was there may have been killed before its name was synced.
      sync_directory(parent_path(parent));
    }
  }
  if (!find(path)) {
    const std::optional<Place> at = place(path);
    if (!at || at->directory->entries.contains(at->name)) fail("mkdir", path, "Not a directory");
    make_node(*at, true);
  } else if (!find(path)->is_directory) {
    fail("mkdir", path, "File exists");
  }
  sync_directory(parent);
}

void SimFileSystem::sync_directory(const std::string& path) {
  begin("sync", path);
  const NodePtr directory = find(path);
  if (!directory) fail("sync", path, "No such file or directory");
  if (!directory->is_directory) fail("sync", path, "Not a directory");
  if (scheduler_.random().chance(scheduler_.options().sync_failure)) scheduler_.crash("sync of " + path + " failed");
  std::vector<Number> ours;
  for (const auto& [number, change] : name_changes_) {
    // A move to another directory waits for that one.
    const bool arrives = change.to.directory == directory;
    const bool removed = change.to.directory == nullptr && change.from == directory;
    if (arrives || removed) ours.push_back(number);
  }
  for (const Number number : ours) commit(number);
}

std::optional<std::vector<FileInfo>> SimFileSystem::list(const std::string& path) {
  begin("list", path);
  const NodePtr directory = find(path);
  if (!directory) return std::nullopt;
  if (!directory->is_directory) return std::nullopt;
  const std::string prefix = path.ends_with('/') ? path : path + "/";
  std::vector<FileInfo> entries;
  for (const auto& [name, node] : directory->entries) entries.push_back(info(*node, prefix + name));
  return entries;
}

std::optional<FileInfo> SimFileSystem::stat(const std::string& path) {
  begin("stat", path);
  const NodePtr node = find(path);
  if (!node) return std::nullopt;
  return info(*node, path);
}

// The file has lost its last name by that change.
void SimFileSystem::take_name(const NodePtr& node, Number change) {
  node->has_name = false;
  node->unnamed_by = change;
  // Even when the file comes and goes without reaching the disk, the number may be used once more (D4).
  name_changes_.at(change).needs.push_back(node->inode_freed_by);
  free_if_unused(*node);
}

void SimFileSystem::free_if_unused(Node& node) {
  const bool is_open = node.handles > 0 && node.handles_of == std::pair(machine_, scheduler_.life());
  if (node.has_name || is_open) return;
  free_inodes_.push_back({node.inode, node.unnamed_by});
}

// The change reaches the disk.
void SimFileSystem::commit(Number number) {
  const auto at = name_changes_.find(number);
  if (at == name_changes_.end()) return;
  const NameChange change = std::move(at->second);
  name_changes_.erase(at);
  for (const Number needed : change.needs) commit(needed);

  // A node that has been renamed or removed since has moved on from what this change says of it.
  const bool is_newest_of_node = change.node->moves_by(number);
  // Also when it has got that name by a change that is not on the disk: its inode number may belong to another by now.
  if (change.replaced) change.replaced->moves_by(number);
  if (!change.to.directory) return;
  Node::Slot& slot = change.to.directory->durable_entries[change.to.name];
  if (slot.changed_by > number) return;
  // Held, since that place may be all that holds it.
  if (const NodePtr displaced = slot.node) displaced->lose_durable_name();
  slot.changed_by = number;
  if (!is_newest_of_node) return;
  slot.node = change.node;
  slot.node->durable_directory = change.to.directory.get();
  slot.node->durable_name = change.to.name;
}

void SimFileSystem::crash() {
  scheduler_.trace("crash");
  ++machine_;
  decide_names();
  free_inodes_.clear();
  std::vector<Number> inodes;
  settle(root_, inodes);
  std::sort(inodes.begin(), inodes.end());
  SLUICE_ASSERT(std::adjacent_find(inodes.begin(), inodes.end()) == inodes.end());
  for (Number inode = inode_count_; inode-- > first_inode;) {
    if (!std::binary_search(inodes.begin(), inodes.end(), inode)) free_inodes_.push_back({inode, 0});
  }
}

// Which of the pending changes of names have reached the disk: none, all, or each by chance.
void SimFileSystem::decide_names() {
  const double probability = static_cast<double>(scheduler_.random().below(5)) / 4;
  std::vector<Number> kept;
  for (const auto& [number, change] : name_changes_) {
    if (scheduler_.random().chance(probability)) kept.push_back(number);
  }
  // In their order; what they need (D4, remove()) goes before them.
  for (const Number number : kept) {
    scheduler_.trace(number);
    commit(number);
  }
  name_changes_.clear();
}

// A prefix of the file's unsynced changes has reached the disk, perhaps a part of the next one, and any of the later
// ones that lie within the file as it is then: pages are written in any order, but the size grows step by step.
void SimFileSystem::decide_content(Node& file) {
  if (file.unsynced.empty()) return;
  Random& random = scheduler_.random();
  const std::size_t kept = static_cast<std::size_t>(random.below(file.unsynced.size() + 1));
  for (std::size_t i = 0; i < kept; ++i) file.unsynced[i].apply(file.durable);
  if (kept < file.unsynced.size() && random.chance(0.5)) tear(file.unsynced[kept], file.durable);
  for (std::size_t i = kept + 1; i < file.unsynced.size(); ++i) {
    if (file.unsynced[i].lies_within(file.durable) && random.chance(0.5)) file.unsynced[i].apply(file.durable);
  }
  file.unsynced.clear();
  scheduler_.trace(file.durable.size());
}

// A part of the change has reached the disk.
void SimFileSystem::tear(const Change& change, std::string& content) {
  Random& random = scheduler_.random();
  if (change.kind == Change::Kind::cut) return;
  const std::string_view bytes = change.bytes;
  const std::size_t written = static_cast<std::size_t>(random.below(bytes.size() + 1));
  if (change.kind == Change::Kind::append) {
    content.append(bytes.substr(0, written));
    // The size may reach the disk before the blocks do.
    if (random.chance(0.25)) content.append(random.below(bytes.size() - written + 1), '\0');
  } else if (written != 0) {
    // Sectors go in any order: the beginning alone, or the end alone.
    const std::size_t begin = random.chance(0.5) ? 0 : bytes.size() - written;
    Change::write(content, change.at + begin, bytes.substr(begin, written));
  }
}

// What is on the disk is from now on what the process sees.
void SimFileSystem::settle(const NodePtr& directory, std::vector<Number>& inodes) {
  inodes.push_back(directory->inode);
  std::erase_if(directory->durable_entries, [](const auto& entry) { return entry.second.node == nullptr; });
  directory->entries.clear();
  for (const auto& [name, slot] : directory->durable_entries) {
    const NodePtr& node = slot.node;
    directory->entries[name] = node;
    node->has_name = true;
    node->handles = 0;
    if (node->is_directory) {
      settle(node, inodes);
    } else {
      inodes.push_back(node->inode);
      decide_content(*node);
      node->content = node->durable;
    }
  }
}

}  // namespace sluice::testing::detail
