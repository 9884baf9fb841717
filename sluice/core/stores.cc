#include "sluice/core/stores.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <span>
#include <utility>

#include "sluice/runtime/checksum.h"

namespace sluice::detail {

namespace {

// A spilled block: magic, CRC32C of the rest, then the records' codec bytes. A spilled map partition: its packed
// buckets one after the other; where each lies and its CRC32C is kept in memory. Neither lives longer than the process,
// so there is no version beyond the magic.
constexpr std::uint32_t spill_magic = 0x534c5531;  // "SLU1"
constexpr std::size_t spill_header_bytes = 8;
/// Buckets are written together, in pieces of about this size.
constexpr std::size_t spill_write_bytes = 256 << 10;

}  // namespace

// ---- SpillDirectory

SpillDirectory::SpillDirectory(Runtime& runtime, const std::string& parent)
    : runtime_(runtime),
      path_(parent.empty() ? parent : parent + "/sluice-spill-" + std::to_string(runtime.random_seed())) {}

void SpillDirectory::remove() {
  is_made_ = false;
  if (!was_made_.exchange(false)) return;
  try {
    files().remove_all(path_);
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: spilled data could not be removed: %s\n", error.what());
  }
}

std::unique_ptr<File> SpillDirectory::create(const std::string& name) {
  if (!is_made_) {
    was_made_ = true;
    files().make_directories(path_);
    is_made_ = true;
  }
  try {
    return files().create(path_of(name));
  } catch (...) {
    is_made_ = false;  // somebody may have removed it: the next one sees to that
    throw;
  }
}

// ---- ShuffleStore

/// A map partition on disk. Its file is removed with it: when it is not wanted any more, and nobody reads it.
class ShuffleStore::SpilledMap {
 public:
  SpilledMap(SpillDirectory& directory, std::string name) : directory_(directory), name_(std::move(name)) {}
  ~SpilledMap() {
    try {
      directory_.files().remove(directory_.path_of(name_));
    } catch (const Error& error) {
      std::fprintf(stderr, "sluice: spilled shuffle output could not be removed: %s\n", error.what());
    }
  }
  SpilledMap(const SpilledMap&) = delete;
  SpilledMap& operator=(const SpilledMap&) = delete;

  void write(const ShuffleKernel& kernel, const Buckets& buckets, Compression compression) {
    const auto file = directory_.create(name_);
    std::string pending;
    std::uint64_t offset = 0;
    for (const BucketPtr& bucket : buckets) {
      Piece& piece = pieces_.emplace_back();
      if (bucket == nullptr) continue;
      const std::string packed = pack_bucket(kernel, *bucket, compression);
      piece = {offset, packed.size(), crc32c(packed)};
      offset += packed.size();
      pending += packed;
      if (pending.size() < spill_write_bytes) continue;
      file->append(pending);
      pending.clear();
    }
    if (!pending.empty()) file->append(pending);
  }

  bool is_empty(std::size_t target) const { return pieces_.at(target).size == 0; }
  /// Errors: SLU-301, SLU-302, SLU-401.
  std::string read(std::size_t target) const {
    const Piece& piece = pieces_.at(target);
    const std::string path = directory_.path_of(name_);
    const auto file = directory_.files().open(path);
    if (file == nullptr) throw Error(Code::truncated_data, {.why = path + " is gone"});
    std::string bytes(piece.size, '\0');
    for (std::size_t got = 0; got < bytes.size();) {
      const std::size_t n = file->read_at(piece.offset + got, std::span(bytes).subspan(got));
      if (n == 0) throw Error(Code::truncated_data, {.why = path});
      got += n;
    }
    if (crc32c(bytes) != piece.checksum) throw Error(Code::corrupt_data, {.why = path});
    return bytes;
  }

 private:
  struct Piece {
    std::uint64_t offset = 0;
    std::size_t size = 0;
    std::uint32_t checksum = 0;
  };
  SpillDirectory& directory_;
  const std::string name_;
  std::vector<Piece> pieces_;
};

ShuffleStore::ShuffleStore() = default;
ShuffleStore::ShuffleStore(Runtime& runtime, const Options& options)
    : memory_bytes_max_(options.memory_bytes),
      compression_(options.compression),
      directory_(std::make_unique<SpillDirectory>(runtime, options.spill_directory)) {}
ShuffleStore::~ShuffleStore() = default;

void ShuffleStore::open(std::uint64_t shuffle, std::size_t map_partitions, const Shipped<ShuffleKernel>& kernel) {
  SLUICE_ASSERT(directory_ == nullptr || kernel);
  const std::lock_guard lock(mutex_);
  const auto [place, is_new] = shuffles_.try_emplace(shuffle);
  if (!is_new) return;
  Shuffle& made = place->second;
  made.missing = map_partitions;
  made.kernel = kernel;
  made.maps.resize(map_partitions);
  for (Map& map : made.maps) map.written = oldest_.end();
}

std::vector<bool> ShuffleStore::present(std::uint64_t shuffle) {
  const std::lock_guard lock(mutex_);
  std::vector<bool> present;
  for (const Map& map : shuffles_.at(shuffle).maps) present.push_back(map.is_present);
  return present;
}

bool ShuffleStore::put(std::uint64_t shuffle, std::size_t map_partition, std::vector<BucketPtr> buckets) {
  std::size_t bytes = 0;
  for (const BucketPtr& bucket : buckets) bytes += bucket == nullptr ? 0 : bucket->bytes();
  {
    const std::lock_guard lock(mutex_);
    Shuffle& into = shuffles_.at(shuffle);
    Map& map = into.maps.at(map_partition);
    if (map.is_present) return false;
    map.is_present = map.was_present = true;
    map.buckets = std::make_shared<const Buckets>(std::move(buckets));
    map.bytes = bytes;
    --into.missing;
    if (directory_ == nullptr || bytes == 0) return true;
    // What is larger than the whole budget pushes nothing else out.
    const auto before = bytes > memory_bytes_max_ ? oldest_.begin() : oldest_.end();
    map.written = oldest_.insert(before, {shuffle, map_partition});
    memory_bytes_ += bytes;
  }
  make_room();
  return true;
}

bool ShuffleStore::put_elsewhere(std::uint64_t shuffle, std::size_t map_partition) {
  const std::lock_guard lock(mutex_);
  Shuffle& into = shuffles_.at(shuffle);
  Map& map = into.maps.at(map_partition);
  if (map.is_present) return false;
  map.is_present = true;
  --into.missing;
  return !std::exchange(map.was_present, true);
}

// Under the mutex. nullptr when it is missing.
ShuffleStore::Map* ShuffleStore::present_map(std::uint64_t shuffle, std::size_t map_partition) {
  const auto found = shuffles_.find(shuffle);
  if (found == shuffles_.end() || map_partition >= found->second.maps.size()) return nullptr;
  Map& map = found->second.maps[map_partition];
  return map.is_present ? &map : nullptr;
}

// Under the mutex. What it had is to be destroyed by the caller, without it.
void ShuffleStore::clear(Shuffle& shuffle, Map& map) {
  if (map.written != oldest_.end()) {
    oldest_.erase(map.written);
    memory_bytes_ -= map.bytes;
  }
  map.written = oldest_.end();
  map.is_present = false;
  map.buckets = nullptr;
  map.spilled = nullptr;
  ++shuffle.missing;
}

void ShuffleStore::lose(std::uint64_t shuffle, std::size_t map_partition) {
  Map lost;  // destroyed outside the lock
  const std::lock_guard lock(mutex_);
  Map* const map = present_map(shuffle, map_partition);
  if (map == nullptr) return;
  lost = *map;
  clear(shuffles_.at(shuffle), *map);
}

std::vector<BucketPtr> ShuffleStore::get(std::uint64_t shuffle, std::size_t target) {
  const std::lock_guard lock(mutex_);
  const Shuffle& from = shuffles_.at(shuffle);
  SLUICE_ASSERT(from.missing == 0 && directory_ == nullptr);
  std::vector<BucketPtr> buckets;
  buckets.reserve(from.maps.size());
  for (const Map& map : from.maps) buckets.push_back(map.buckets->at(target));
  return buckets;
}

std::optional<ShuffleStore::Found> ShuffleStore::look_up(std::uint64_t shuffle, std::size_t map_partition,
                                                         std::size_t target) {
  const std::lock_guard lock(mutex_);
  const Map* const map = present_map(shuffle, map_partition);
  if (map == nullptr || (map->buckets == nullptr && map->spilled == nullptr)) return std::nullopt;
  Found found;
  found.kernel = shuffles_.at(shuffle).kernel;
  if (map->buckets != nullptr) {
    found.bucket = map->buckets->at(target);
  } else if (!map->spilled->is_empty(target)) {
    found.spilled = map->spilled;
  }
  return found;
}

std::optional<std::string> ShuffleStore::read_back(const Found& found, std::uint64_t shuffle, std::size_t map_partition,
                                                   std::size_t target) {
  try {
    return found.spilled->read(target);
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: spilled shuffle output cannot be used: %s\n", error.what());
  }
  // `found` still holds it: the file is removed outside the lock.
  const std::lock_guard lock(mutex_);
  // Another reader may have found the same, and the map partition been made again since.
  Map* const map = present_map(shuffle, map_partition);
  if (map != nullptr && map->spilled == found.spilled) {
    ++counters_.damaged;
    clear(shuffles_.at(shuffle), *map);
  }
  return std::nullopt;
}

std::optional<BucketPtr> ShuffleStore::find(std::uint64_t shuffle, std::size_t map_partition, std::size_t target) {
  const std::optional<Found> found = look_up(shuffle, map_partition, target);
  if (!found.has_value()) return std::nullopt;
  if (found->spilled == nullptr) return found->bucket;
  const std::optional<std::string> bytes = read_back(*found, shuffle, map_partition, target);
  if (!bytes.has_value()) return std::nullopt;
  return unpack_bucket(*found->kernel, *bytes);
}

std::optional<std::string> ShuffleStore::find_packed(std::uint64_t shuffle, std::size_t map_partition,
                                                     std::size_t target) {
  const std::optional<Found> found = look_up(shuffle, map_partition, target);
  if (!found.has_value()) return std::nullopt;
  if (found->spilled != nullptr) return read_back(*found, shuffle, map_partition, target);
  if (found->bucket == nullptr) return std::string();
  return pack_bucket(*found->kernel, *found->bucket, compression_);
}

// The lock is not held while the disk works: who is to leave is marked first and dropped from memory when its bytes are
// written. Who reads it meanwhile finds it in memory.
void ShuffleStore::make_room() {
  while (*directory_) {
    Place place;
    Shipped<ShuffleKernel> kernel;
    std::shared_ptr<const Buckets> buckets;
    {
      const std::lock_guard lock(mutex_);
      if (memory_bytes_ <= memory_bytes_max_ || oldest_.empty()) return;
      place = oldest_.front();
      oldest_.pop_front();
      Shuffle& shuffle = shuffles_.at(place.shuffle);
      Map& map = shuffle.maps[place.map_partition];
      map.written = oldest_.end();
      memory_bytes_ -= map.bytes;
      kernel = shuffle.kernel;
      buckets = map.buckets;
    }
    if (!spill(place, *kernel, buckets)) return;
  }
}

// False when it could not be written; then it is in memory again.
bool ShuffleStore::spill(const Place& place, const ShuffleKernel& kernel,
                         const std::shared_ptr<const Buckets>& buckets) {
  std::shared_ptr<const SpilledMap> written;
  try {
    written = write(kernel, *buckets);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sluice: shuffle output could not be written to disk and stays in memory: %s\n", error.what());
  }
  const std::lock_guard lock(mutex_);
  ++(written != nullptr ? counters_.spilled : counters_.spill_failures);
  Map* const map = present_map(place.shuffle, place.map_partition);
  if (map == nullptr || map->buckets != buckets) return written != nullptr;  // not wanted any more
  if (written != nullptr) {
    map->spilled = written;
    map->buckets = nullptr;
    return true;
  }
  map->written = oldest_.insert(oldest_.end(), place);
  memory_bytes_ += map->bytes;
  return false;
}

std::shared_ptr<const ShuffleStore::SpilledMap> ShuffleStore::write(const ShuffleKernel& kernel,
                                                                    const Buckets& buckets) {
  const auto spilled = std::make_shared<SpilledMap>(*directory_, "shuffle-" + std::to_string(++last_file_));
  spilled->write(kernel, buckets, compression_);
  return spilled;
}

bool ShuffleStore::complete(std::uint64_t shuffle) {
  const std::lock_guard lock(mutex_);
  const auto found = shuffles_.find(shuffle);
  return found != shuffles_.end() && found->second.missing == 0;
}

bool ShuffleStore::is_to_come(std::uint64_t shuffle, const std::vector<std::uint32_t>& map_partitions) {
  const std::lock_guard lock(mutex_);
  const auto found = shuffles_.find(shuffle);
  if (found == shuffles_.end()) return true;
  const std::vector<Map>& maps = found->second.maps;
  return std::any_of(map_partitions.begin(), map_partitions.end(),
                     [&maps](std::uint32_t map) { return map < maps.size() && !maps[map].was_present; });
}

void ShuffleStore::close(std::uint64_t shuffle) {
  std::vector<Map> freed;  // destroyed outside the lock
  const std::lock_guard lock(mutex_);
  const auto found = shuffles_.find(shuffle);
  if (found == shuffles_.end()) return;
  for (Map& map : found->second.maps) {
    freed.push_back(map);
    clear(found->second, map);
  }
  shuffles_.erase(found);
}

std::size_t ShuffleStore::size() {
  const std::lock_guard lock(mutex_);
  return shuffles_.size();
}

std::size_t ShuffleStore::memory_bytes() {
  const std::lock_guard lock(mutex_);
  return memory_bytes_;
}

ShuffleStore::Counters ShuffleStore::counters() {
  const std::lock_guard lock(mutex_);
  return counters_;
}

// ---- RestedRecords

namespace {
constexpr std::size_t segment_bytes_first = 4 << 10;
constexpr std::size_t segment_bytes_max = 256 << 10;
}  // namespace

RestedRecords::RestedRecords(const TypeOps& type) : type_(type) {}

RestedRecords::~RestedRecords() {
  if (type_.trivially_destructible) return;
  for (Segment& segment : segments_) type_.destroy(segment.memory.data(), segment.used);
}

void RestedRecords::append(const void* records, std::size_t count) {
  const char* from = static_cast<const char*>(records);
  while (count > 0) {
    if (segments_.empty() || segments_.back().used == segments_.back().memory.size() / type_.size) {
      std::size_t bytes = std::clamp(bytes_, segment_bytes_first, segment_bytes_max);
      if (bytes < type_.size) bytes = type_.size;
      segments_.push_back({PooledMemory(bytes), 0});
      bytes_ += segments_.back().memory.size();
    }
    Segment& segment = segments_.back();
    const std::size_t taken = std::min(count, segment.memory.size() / type_.size - segment.used);
    char* to = segment.memory.data() + segment.used * type_.size;
    type_.copy(from, to, taken);
    segment.used += taken;
    if (type_.has_views) type_.rest(to, taken, arena_);
    from += taken * type_.size;
    count -= taken;
    count_ += taken;
  }
}

void RestedRecords::push_all(Pipe& out) const {
  const std::size_t step = std::max<std::size_t>(1, chunk_bytes / type_.size);
  for (const Segment& segment : segments_) {
    for (std::size_t at = 0; at < segment.used && !out.full(); at += step) {
      out.push(segment.memory.data() + at * type_.size, std::min(step, segment.used - at));
    }
  }
}

void RestedRecords::encode_to(Encoder& out) const {
  out.u64(count_);
  for (const Segment& segment : segments_) type_.encode(segment.memory.data(), segment.used, out);
}

RestedPtr RestedRecords::decode_from(Decoder& in, const TypeOps& type) {
  auto records = std::make_shared<RestedRecords>(type);
  decode_into(in, *records);
  return records;
}

void RestedRecords::decode_into(Decoder& in, RestedRecords& records) {
  const TypeOps& type = records.type_;
  std::uint64_t left = in.u64();
  const std::size_t step = std::max<std::size_t>(1, segment_bytes_max / type.size);
  PooledMemory memory(std::min<std::uint64_t>(step, std::max<std::uint64_t>(left, 1)) * type.size);
  while (left > 0) {
    const std::size_t count = std::min<std::uint64_t>(step, left);
    type.decode(in, memory.data(), count);
    records.append(memory.data(), count);
    if (!type.trivially_destructible) type.destroy(memory.data(), count);
    left -= count;
  }
}

// ---- BlockStore

namespace {

std::string name_of(const BlockId& id) { return "block-" + std::to_string(id.owner) + "-" + std::to_string(id.index); }

}  // namespace

BlockStore::BlockStore(Runtime& runtime, const Options& options)
    : memory_bytes_max_(options.memory_bytes), directory_(runtime, options.spill_directory) {}

std::string BlockStore::path_of(const BlockId& id) const { return directory_.path_of(name_of(id)); }

bool BlockStore::put(const BlockId& id, const RestedPtr& records, Keep level) {
  const std::size_t bytes = records->bytes();
  const bool at_once = has_disk(level) && (level == Keep::disk || bytes > memory_bytes_max_);
  if (has(id)) return false;
  if (!at_once) make_room(bytes);
  {
    const std::lock_guard lock(mutex_);
    const auto [at, made] = blocks_.try_emplace(id);
    if (!made) return false;
    Block& block = at->second;
    block.type = &records->type();
    block.records = records;
    block.level = level;
    block.bytes = bytes;
    block.used = least_recent_.end();
    if (!at_once) {
      block.used = least_recent_.insert(least_recent_.end(), id);
      memory_bytes_ += bytes;
    }
  }
  if (at_once) spill(id, *records);
  return true;
}

bool BlockStore::put_elsewhere(const BlockId& id) {
  const std::lock_guard lock(mutex_);
  const auto [at, made] = blocks_.try_emplace(id);
  if (made) at->second.used = least_recent_.end();
  return made;
}

void BlockStore::lose(const BlockId& id) {
  const std::lock_guard lock(mutex_);
  const auto found = blocks_.find(id);
  if (found == blocks_.end()) return;
  SLUICE_ASSERT(found->second.type == nullptr);  // it lay elsewhere
  blocks_.erase(found);
}

// In this order: nobody finds that it is neither here nor lost for good.
void BlockStore::lose_for_good(const BlockId& id) {
  {
    const std::lock_guard lock(mutex_);
    lost_for_good_.insert(id);
  }
  lose(id);
}

bool BlockStore::is_lost_for_good(const BlockId& id) {
  const std::lock_guard lock(mutex_);
  return lost_for_good_.contains(id);
}

// The lock is not held while the disk works: victims are marked first and dropped from memory when their bytes are
// written. A victim that is read meanwhile is still in memory.
void BlockStore::make_room(std::size_t bytes) {
  for (;;) {
    BlockId id;
    RestedPtr victim;
    {
      const std::lock_guard lock(mutex_);
      if (memory_bytes_ + bytes <= memory_bytes_max_ || least_recent_.empty()) return;
      id = least_recent_.front();
      Block& block = blocks_.at(id);
      least_recent_.pop_front();
      block.used = least_recent_.end();
      memory_bytes_ -= block.bytes;
      victim = block.records;  // also destroyed outside the lock
      if (!has_disk(block.level)) {
        ++counters_.evicted;
        blocks_.erase(id);
        continue;
      }
    }
    if (!spill(id, *victim)) return;
  }
}

// False when it could not be written; then it is in memory again.
bool BlockStore::spill(const BlockId& id, const RestedRecords& records) {
  const auto remove = [&] {
    try {
      directory_.files().remove(path_of(id));
    } catch (const Error& error) {
      std::fprintf(stderr, "sluice: a spilled block could not be removed: %s\n", error.what());
    }
  };
  bool written = true;
  try {
    write(id, records);
  } catch (const Error& error) {
    std::fprintf(stderr, "sluice: a block could not be written to disk and stays in memory: %s\n", error.what());
    written = false;
    remove();  // a part of it, and before another thread may write it again
  }
  {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(id);
    ++(written ? counters_.spilled : counters_.spill_failures);
    if (found != blocks_.end() && written) {
      ++counters_.evicted;
      found->second.on_disk = true;
      found->second.records = nullptr;
      return true;
    }
    if (found != blocks_.end()) {
      found->second.used = least_recent_.insert(least_recent_.end(), id);
      memory_bytes_ += found->second.bytes;
      return false;
    }
  }
  if (written) remove();  // it was removed meanwhile
  return written;
}

void BlockStore::write(const BlockId& id, const RestedRecords& records) {
  Encoder body;
  records.encode_to(body);
  const std::string_view view = body.view();
  Encoder header;
  header.u32(spill_magic);
  header.u32(crc32c(view));
  const std::string_view head = header.view();
  const auto file = directory_.create(name_of(id));
  file->append(head);
  file->append(view);
}

RestedPtr BlockStore::get(const BlockId& id) {
  const TypeOps* type = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = blocks_.find(id);
    if (found == blocks_.end()) return nullptr;
    Block& block = found->second;
    if (block.records != nullptr) {
      if (block.used != least_recent_.end()) least_recent_.splice(least_recent_.end(), least_recent_, block.used);
      return block.records;
    }
    type = block.type;
  }
  return read_back(id, *type);
}

RestedPtr BlockStore::read_back(const BlockId& id, const TypeOps& type) {
  try {
    const std::string bytes = read_file(directory_.files(), path_of(id), ~std::uint64_t{0});
    Decoder header(bytes);
    const bool right_magic = header.u32() == spill_magic;
    const std::uint32_t sum = header.u32();
    const std::string_view body(bytes.data() + spill_header_bytes, bytes.size() - spill_header_bytes);
    if (!right_magic || crc32c(body) != sum) throw Error(Code::corrupt_data, {.why = path_of(id)});
    Decoder in(body);
    RestedPtr records = RestedRecords::decode_from(in, type);
    in.expect_end();
    return records;
  } catch (const Error& error) {
    // The block counts as lost: a cached partition is computed again from its lineage.
    std::fprintf(stderr, "sluice: a spilled block cannot be used: %s\n", error.what());
    const std::lock_guard lock(mutex_);
    ++counters_.damaged;
    // Another reader may have found the same, and the block been made again since.
    const auto found = blocks_.find(id);
    if (found != blocks_.end() && found->second.records == nullptr) blocks_.erase(found);
    return nullptr;
  }
}

bool BlockStore::has(const BlockId& id) {
  const std::lock_guard lock(mutex_);
  return blocks_.contains(id);
}

void BlockStore::remove_owners(std::uint64_t first, std::uint64_t last) {
  std::vector<RestedPtr> freed;
  std::vector<BlockId> on_disk;
  {
    const std::lock_guard lock(mutex_);
    auto it = blocks_.lower_bound({first, 0});
    while (it != blocks_.end() && it->first.owner <= last) {
      Block& block = it->second;
      if (block.used != least_recent_.end()) {
        least_recent_.erase(block.used);
        memory_bytes_ -= block.bytes;
      }
      if (block.on_disk) on_disk.push_back(it->first);
      freed.push_back(std::move(block.records));
      it = blocks_.erase(it);
    }
    const auto lost = lost_for_good_.lower_bound({first, 0});
    lost_for_good_.erase(
        lost, std::find_if(lost, lost_for_good_.end(), [last](const BlockId& id) { return id.owner > last; }));
  }
  for (const BlockId& id : on_disk) directory_.files().remove(path_of(id));
}

std::vector<std::uint64_t> BlockStore::keep_owners(std::uint64_t first, const std::vector<std::uint64_t>& owners) {
  std::set<std::uint64_t> here;
  {
    const std::lock_guard lock(mutex_);
    for (auto it = blocks_.lower_bound({first, 0}); it != blocks_.end(); ++it) here.insert(it->first.owner);
  }
  const std::set<std::uint64_t> wanted(owners.begin(), owners.end());
  std::vector<std::uint64_t> kept;
  for (const std::uint64_t owner : here) {
    if (wanted.contains(owner)) {
      kept.push_back(owner);
    } else {
      remove_owner(owner);
    }
  }
  return kept;
}

void BlockStore::remove_spilled() {
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(blocks_, [](const auto& each) { return each.second.on_disk && each.second.records == nullptr; });
  }
  directory_.remove();
}

std::size_t BlockStore::memory_bytes() {
  const std::lock_guard lock(mutex_);
  return memory_bytes_;
}

BlockStore::Counters BlockStore::counters() {
  const std::lock_guard lock(mutex_);
  return counters_;
}

// ---- StateStore

std::shared_ptr<StatePartition> StateStore::get(std::uint64_t operation, std::size_t partition,
                                                const std::function<std::shared_ptr<StatePartition>()>& make) {
  const std::lock_guard lock(mutex_);
  auto& state = states_[{operation, partition}];
  if (state == nullptr) {
    state = make();
    if (tracks_) state->track();
  }
  return state;
}

std::shared_ptr<StatePartition> StateStore::find(std::uint64_t operation, std::size_t partition) {
  const std::lock_guard lock(mutex_);
  const auto found = states_.find({operation, partition});
  return found == states_.end() ? nullptr : found->second;
}

void StateStore::put(std::uint64_t operation, std::size_t partition, std::shared_ptr<StatePartition> state) {
  if (tracks_) state->track();
  const std::lock_guard lock(mutex_);
  states_[{operation, partition}] = std::move(state);
}

void StateStore::remove(std::uint64_t operation, std::size_t partition) {
  const std::lock_guard lock(mutex_);
  states_.erase({operation, partition});
}

StateStore::States StateStore::take_all() {
  const std::lock_guard lock(mutex_);
  return std::exchange(states_, {});
}

void StateStore::clear() {
  const std::lock_guard lock(mutex_);
  states_.clear();
}

void StateStore::remove(std::uint64_t operation) {
  const std::lock_guard lock(mutex_);
  states_.erase(states_.lower_bound({operation, 0}), states_.lower_bound({operation + 1, 0}));
}

}  // namespace sluice::detail
