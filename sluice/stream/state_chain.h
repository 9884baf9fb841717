// What a chain of state files has together: for merging it into one file, and for looking into it. Types are not needed
// for either: keys are told apart by their bytes (see StateBlock).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sluice/stream/checkpoint.h"

namespace sluice::detail {

/// The keys of one key group and what each has last. Keys keep the order in which they came; one that was removed and
/// comes back is the last.
class KeyGroup {
 public:
  /// `schema` must outlive it.
  explicit KeyGroup(const StateSchema& schema) : schema_(schema) {}
  /// Takes in the content of a block; older ones come first. Errors: SLU-301, SLU-302.
  void take(std::string_view block);
  std::size_t size() const { return places_.size(); }
  /// Calls f(key, value) for each key.
  void for_each(const std::function<void(std::string_view key, std::string_view value)>& f) const;
  /// As the content of one block.
  std::string bytes() const;

 private:
  struct Entry {
    std::string key;
    std::string value;
    bool gone = false;
  };
  const StateSchema& schema_;
  std::vector<Entry> entries_;
  std::unordered_map<std::string, std::size_t> places_;
};

/// The blocks of a checkpoint's chain, by operator. Memory: a few words a block.
class StateChain {
 public:
  /// Reads and checks all files. Errors: those of scan_state_file; SLU-301 when the files do not belong to the
  /// manifest.
  StateChain(FileSystem& files, const std::string& directory, const Manifest& manifest);

  struct Block {
    std::size_t file = 0;
    std::uint64_t offset = 0;
    std::size_t bytes = 0;
    std::uint32_t group = 0;
    std::int64_t batch = 0;
  };
  /// Of the operator with that index in the manifest: blocks of entries by key group, and logs, each in the order of
  /// the chain. What was kept of streams that the manifest does not name is left out, and logs that have left their
  /// window.
  const std::map<std::uint32_t, std::vector<Block>>& groups(std::size_t index) const { return groups_[index]; }
  const std::vector<Block>& logs(std::size_t index) const { return logs_[index]; }
  /// The content of a block, valid until the next call. Errors: SLU-302 when the file has been cut since; SLU-401.
  std::string_view read(const Block& block);
  /// The keys of a group. Errors: as `read`; SLU-301.
  KeyGroup read_group(std::size_t index, const std::vector<Block>& blocks);

 private:
  void take(std::size_t file, const CheckpointOperator& written, const StateBlockAt& block);

  const std::string directory_;
  const Manifest& manifest_;
  std::vector<std::unique_ptr<File>> files_;
  std::vector<std::map<std::uint32_t, std::vector<Block>>> groups_;
  std::vector<std::vector<Block>> logs_;
  std::string bytes_;
};

/// Merges a chain into one base file: the last of what each key has; logs that have left their window are dropped. Keys
/// and values of an operator must have the same schema in all files. Memory: one key group at a time. Cost: reads the
/// chain twice.
StateFileInfo merge_chain(FileSystem& files, const std::string& directory, const Manifest& manifest,
                          const std::string& name);

}  // namespace sluice::detail
