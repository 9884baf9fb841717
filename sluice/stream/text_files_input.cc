#include "sluice/stream/text_files_input.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "sluice/core/text_reader.h"
#include "sluice/runtime/planted_bug.h"

namespace sluice::detail {
namespace {

// Plain files are split into ranges of this size, one a partition: large enough that a task's cost is lost in it.
constexpr std::uint64_t split_bytes = 32 << 20;
// Names told to people.
constexpr std::size_t names_max = 10;

/// "a, b and 7 more".
class NameList {
 public:
  void add(std::string_view name) {
    if (++count_ > names_max) return;
    if (!text_.empty()) text_ += ", ";
    text_ += name;
  }
  std::size_t size() const { return count_; }
  std::string text() const {
    return count_ <= names_max ? text_ : text_ + " and " + std::to_string(count_ - names_max) + " more";
  }

 private:
  std::string text_;
  std::size_t count_ = 0;
};

// Threads: start() on the caller's thread, all else on the stream's.
class TextFilesInput final : public Input {
 public:
  TextFilesInput(std::string directory, TextFilesOptions options, std::uint64_t too_long_counter,
                 std::size_t partitions_max)
      : directory_(std::move(directory)),
        options_(options),
        read_{options.line_bytes_max, too_long_counter},
        partitions_max_(partitions_max) {}

  std::string argument() const override { return directory_; }

  void start(Engine& engine, InputStart start) override {
    std::optional<std::vector<FileInfo>> files;
    try {
      files = engine.runtime().files().list(directory_);
    } catch (const Error& error) {
      throw Error(Code::not_readable, {.why = directory_ + ": " + error.details().why});
    }
    if (!files.has_value()) {
      throw Error(Code::not_a_directory, {.why = directory_ + " is missing or no directory"});
    }
    is_kept_ = start.is_kept;
    // A run before this one knew which files it had taken or left out; those that came since are new.
    if (start.resumes && !planted_bug("files-not-known")) return;
    known_.clear();
    if (options_.existing_files) return;
    for (const FileInfo& file : *files) {
      if (is_candidate(file)) known_[file.path] = {file, false, false};
    }
  }

  std::string choose(Engine& engine, Time time, InputInfo& told) override {
    NameList names;
    NameList changed;
    std::string failure;
    const std::vector<FileInfo> chosen = choose_files(engine.runtime().files(), time, changed, failure);
    for (const FileInfo& file : chosen) {
      names.add(base_name(file.path));
      told.bytes += file.size_bytes;
    }
    told.description = names.text();
    changed_count_ += changed.size();
    if (changed.size() > 0) {
      tell(told, "changed after they were taken, which is not read: " + changed.text() + " (" +
                     std::to_string(changed_count_) + " files so far)");
    }
    if (!failure.empty()) {
      tell(told, "listing failed (" + std::to_string(++listing_failures_) + " times so far): " + failure);
    }
    if (chosen.empty()) return {};
    // After a crash of the machine a file must not have the name back under which its writer moved it here: that one
    // would move it again.
    try {
      if (is_kept_) engine.runtime().files().sync_directory(directory_);
    } catch (const Error& error) {
      tell(told, "new names may be lost in a crash of the machine: " + error.details().why);
    }
    Encoder out;
    out.varint(chosen.size());
    for (const FileInfo& file : chosen) save_file(file, out);
    return out.take();
  }

  NodePtr rdd(Engine&, const OperatorInfoPtr& info, std::string_view choice, InputInfo& told) override {
    std::vector<Shipped<Source>> sources;
    for_each_file(choice, [&](const FileInfo& file) { add_ranges(*info, file, sources); });
    told.blocks += sources.size();
    return make_input_node(info, type_ops<std::string_view>(), std::move(sources), partitions_max_);
  }

  void redo(std::string_view choice) override {
    for_each_file(choice, [&](const FileInfo& file) { known_[file.path] = {file, true, false}; });
  }

  void save(Encoder& out) override {
    out.varint(known_.size());
    for (const auto& [path, known] : known_) {
      save_file(known.file, out);
      out.u8(static_cast<std::uint8_t>((known.taken ? 1 : 0) | (known.change_told ? 2 : 0)));
    }
  }

  void load(Decoder& in) override {
    for (std::size_t left = in.count(); left > 0; --left) {
      FileInfo file = load_file(in);
      const std::uint8_t flags = in.u8();
      std::string path = file.path;
      known_[std::move(path)] = {std::move(file), (flags & 1) != 0, (flags & 2) != 0};
    }
  }

  // What has appeared since the last batch is seen only by looking: a graceful stop looks once more.
  bool pending() override { return true; }

 private:
  struct Known {
    FileInfo file;
    bool taken = false;
    bool change_told = false;
  };
  struct Settling {
    FileInfo file;
    Time since;
  };

  static void save_file(const FileInfo& file, Encoder& out) {
    out.text(file.path);
    out.varint(file.size_bytes);
    out.u64(file.device);
    out.u64(file.inode);
    encode(file.birth, out);
    encode(file.modified, out);
  }
  static FileInfo load_file(Decoder& in) {
    FileInfo file;
    file.path = std::string(in.text());
    file.size_bytes = in.varint();
    file.device = in.u64();
    file.inode = in.u64();
    file.birth = decode<Time>(in);
    file.modified = decode<Time>(in);
    return file;
  }
  template <class F>
  static void for_each_file(std::string_view choice, const F& f) {
    if (choice.empty()) return;
    Decoder in(choice);
    for (std::size_t left = in.count(); left > 0; --left) f(load_file(in));
    in.expect_end();
  }

  static void tell(InputInfo& told, const std::string& text) {
    if (!told.description.empty()) told.description += "; ";
    told.description += text;
  }

  // An empty file is not there yet: it has no lines to lose, and its writer may be about to begin. (Nor is a pipe or a
  // device, which would never end.)
  static bool is_candidate(const FileInfo& file) {
    return !file.is_directory && file.size_bytes > 0 && !base_name(file.path).starts_with('.');
  }

  std::vector<FileInfo> choose_files(FileSystem& files, Time time, NameList& changed, std::string& failure) {
    std::vector<FileInfo> chosen;
    std::optional<std::vector<FileInfo>> listed;
    try {
      listed = files.list(directory_);
    } catch (const Error& error) {
      failure = error.details().why;
      return chosen;
    }
    if (!listed.has_value()) {
      failure = directory_ + " is gone";
      return chosen;
    }
    forget_unlisted(*listed);
    std::uint64_t bytes = 0;
    bool full = false;
    for (const FileInfo& file : *listed) {
      if (!is_candidate(file)) continue;
      const auto known = known_.find(file.path);
      if (known != known_.end() && known->second.file.same_file(file)) {
        look_for_change(known->second, file, changed);
        continue;
      }
      if (!has_settled(file, time) || full || leads_nowhere(files, file)) continue;
      const std::uint64_t limit = options_.bytes_per_batch_max;
      full = limit != 0 && !chosen.empty() && bytes + file.size_bytes > limit;
      if (full) continue;
      bytes += file.size_bytes;
      known_[file.path] = {file, true, false};
      settling_.erase(file.path);
      chosen.push_back(file);
    }
    return chosen;
  }

  // The listing is ordered by path, as the maps are.
  void forget_unlisted(const std::vector<FileInfo>& listed) {
    const auto forget = [&listed](auto& files) {
      auto there = listed.begin();
      for (auto it = files.begin(); it != files.end();) {
        while (there != listed.end() && there->path < it->first) ++there;
        const bool is_listed = there != listed.end() && there->path == it->first;
        it = is_listed ? std::next(it) : files.erase(it);
      }
    };
    forget(known_);
    forget(settling_);
  }

  static void look_for_change(Known& known, const FileInfo& file, NameList& changed) {
    if (!known.taken || known.change_told) return;
    if (file.size_bytes == known.file.size_bytes && file.modified == known.file.modified) return;
    known.change_told = true;
    changed.add(base_name(file.path));
  }

  bool has_settled(const FileInfo& file, Time time) {
    if (options_.settle_time <= Duration{}) return true;
    const auto [at, is_new] = settling_.try_emplace(file.path, Settling{file, time});
    Settling& seen = at->second;
    if (!is_new && (!seen.file.same_file(file) || seen.file.size_bytes != file.size_bytes)) seen = {file, time};
    return time - seen.since >= options_.settle_time;
  }

  static bool leads_nowhere(FileSystem& files, const FileInfo& file) {
    if (!file.is_link) return false;
    try {
      return files.open(file.path) == nullptr;
    } catch (const Error&) {
      return false;  // not readable: an error that its task will tell
    }
  }

  void add_ranges(const OperatorInfo& info, const FileInfo& file, std::vector<Shipped<Source>>& sources) {
    TextRange range{file.path, 0, ~std::uint64_t{0}, file.size_bytes, file.device, file.inode, file.birth};
    const bool whole = is_compressed(file.path);
    do {
      range.end = whole ? ~std::uint64_t{0} : std::min(range.begin + split_bytes, file.size_bytes);
      sources.push_back(ship<Source, TextRangeSource>(info, std::vector{range}, read_));
      range.begin = range.end;
    } while (range.end < file.size_bytes);
  }

  const std::string directory_;
  const TextFilesOptions options_;
  const TextReadOptions read_;
  const std::size_t partitions_max_;
  std::map<std::string, Known> known_;        // listed files that were taken, or lay there at start()
  std::map<std::string, Settling> settling_;  // listed files that are waited for
  bool is_kept_ = false;
  std::uint64_t listing_failures_ = 0;
  std::uint64_t changed_count_ = 0;
};

}  // namespace

std::unique_ptr<Input> make_text_files_input(Engine&, std::string directory, TextFilesOptions options,
                                             std::uint64_t too_long_counter, std::size_t partitions_max) {
  return std::make_unique<TextFilesInput>(std::move(directory), options, too_long_counter, partitions_max);
}

}  // namespace sluice::detail
