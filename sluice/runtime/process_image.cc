// The loaded modules and the memory map of this process (declared in process.h).
#include <elf.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>
#include <string_view>

#include "sluice/runtime/errors.h"
#include "sluice/runtime/process.h"

// Present when the program is built with a sanitizer, which need not hold for this file alone.
extern "C" {
__attribute__((weak)) void __asan_get_shadow_mapping(std::size_t* scale, std::size_t* offset);
__attribute__((weak)) void __tsan_init();
}

namespace sluice {
namespace {

// The loaded images at one time, ordered by address. Tables and images are kept for ever: callers hold pointers to
// images, and modules are rarely loaded.
struct ImageTable {
  std::vector<const Image*> images;
  // The loader's counts of modules loaded and unloaded so far: equal counts mean an equal list.
  unsigned long long loaded = 0;
  unsigned long long unloaded = 0;

  const Image* find(std::uintptr_t address) const {
    const auto after = std::upper_bound(images.begin(), images.end(), address,
                                        [](std::uintptr_t a, const Image* image) { return a < image->base; });
    if (after == images.begin()) return nullptr;
    const Image* candidate = *std::prev(after);
    return address < candidate->end ? candidate : nullptr;
  }
};

// FNV-1a over path and size, for a module without a build id.
std::uint64_t substitute_build_id(const std::string& path) {
  struct stat data{};
  const std::uint64_t size = ::stat(path.c_str(), &data) == 0 ? static_cast<std::uint64_t>(data.st_size) : 0;
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (char c : path + ":" + std::to_string(size)) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  }
  return hash;
}

// The first 8 bytes of NT_GNU_BUILD_ID in a note segment. A note is a header, then name and content, each padded.
std::optional<std::uint64_t> find_build_id(std::span<const char> notes, std::size_t alignment) {
  const auto padded = [&](std::size_t size) { return (size + alignment - 1) / alignment * alignment; };
  while (notes.size() >= sizeof(ElfW(Nhdr))) {
    ElfW(Nhdr) header;
    std::memcpy(&header, notes.data(), sizeof header);
    const std::size_t name_at = sizeof header;
    const std::size_t content_at = padded(name_at + header.n_namesz);
    const std::size_t end = content_at + header.n_descsz;
    if (end > notes.size()) return std::nullopt;
    const std::string_view name(notes.data() + name_at, header.n_namesz);
    if (header.n_type == NT_GNU_BUILD_ID && name == std::string_view("GNU\0", 4)) {
      std::uint64_t id = 0;
      std::memcpy(&id, notes.data() + content_at, std::min<std::size_t>(sizeof id, header.n_descsz));
      return id;
    }
    notes = notes.subspan(std::min(padded(end), notes.size()));
  }
  return std::nullopt;
}

std::string path_of_program() {
  std::array<char, 4096> path;
  const ssize_t length = ::readlink("/proc/self/exe", path.data(), path.size());
  return length < 0 ? std::string() : std::string(path.data(), static_cast<std::size_t>(length));
}

std::optional<Image> to_image(const dl_phdr_info& info) {
  Image image;
  image.base = UINTPTR_MAX;
  std::optional<std::uint64_t> build_id;
  for (const ElfW(Phdr) & segment : std::span(info.dlpi_phdr, info.dlpi_phnum)) {
    const std::uintptr_t begin = info.dlpi_addr + segment.p_vaddr;
    if (segment.p_type == PT_LOAD) {
      image.base = std::min(image.base, begin);
      image.end = std::max(image.end, begin + segment.p_memsz);
    } else if (segment.p_type == PT_NOTE && !build_id) {
      build_id =
          find_build_id(std::span(reinterpret_cast<const char*>(begin), segment.p_memsz), segment.p_align == 8 ? 8 : 4);
    }
  }
  if (image.base >= image.end) return std::nullopt;
  // The loader names every module but the program itself.
  image.path = info.dlpi_name == nullptr || *info.dlpi_name == '\0' ? path_of_program() : info.dlpi_name;
  image.build_id = build_id ? *build_id : substitute_build_id(image.path);
  return image;
}

// Threads: `current` is read without the mutex; all else is under it.
class Images {
 public:
  const ImageTable& current() {
    const ImageTable* table = current_.load(std::memory_order_acquire);
    return table != nullptr ? *table : refreshed();
  }

  // The list as it is now: the same object as before when nothing was loaded or unloaded.
  const ImageTable& refreshed() {
    const std::lock_guard lock(mutex_);
    const ImageTable* const old = current_.load(std::memory_order_relaxed);
    Scan scan{.old = old, .table = std::make_unique<ImageTable>(), .images = {}, .unchanged = false};
    ::dl_iterate_phdr(&Images::visit, &scan);
    if (scan.unchanged) return *old;
    for (Image& image : scan.images) scan.table->images.push_back(keep(std::move(image), old));
    std::sort(scan.table->images.begin(), scan.table->images.end(),
              [](const Image* a, const Image* b) { return a->base < b->base; });
    tables_.push_back(std::move(scan.table));
    current_.store(tables_.back().get(), std::memory_order_release);
    return *tables_.back();
  }

 private:
  struct Scan {
    const ImageTable* old;
    std::unique_ptr<ImageTable> table;
    std::vector<Image> images;
    bool unchanged;
  };

  // Called with the loader's lock held, for each module.
  static int visit(dl_phdr_info* info, std::size_t, void* context) {
    auto& scan = *static_cast<Scan*>(context);
    scan.table->loaded = info->dlpi_adds;
    scan.table->unloaded = info->dlpi_subs;
    if (scan.old != nullptr && scan.old->loaded == info->dlpi_adds && scan.old->unloaded == info->dlpi_subs) {
      scan.unchanged = true;
      return 1;
    }
    if (auto image = to_image(*info)) scan.images.push_back(std::move(*image));
    return 0;
  }

  // An image that was there before stays the same object.
  const Image* keep(Image image, const ImageTable* old) {
    const Image* before = old == nullptr ? nullptr : old->find(image.base);
    if (before != nullptr && before->base == image.base && before->end == image.end &&
        before->build_id == image.build_id && before->path == image.path) {
      return before;
    }
    images_.push_back(std::make_unique<const Image>(std::move(image)));
    return images_.back().get();
  }

  std::mutex mutex_;
  std::atomic<const ImageTable*> current_{nullptr};
  std::vector<std::unique_ptr<const ImageTable>> tables_;
  std::vector<std::unique_ptr<const Image>> images_;
};

Images& images() {
  static auto* const images = new Images;
  return *images;
}

struct Region {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  MemoryKind kind = MemoryKind::unmapped;
};

struct Shadow {
  std::uintptr_t begin;
  std::uintptr_t end;
};

// Where the sanitizers keep what they know of the program's memory: readable and writable, but never a pointer's
// target.
std::vector<Shadow> shadows() {
  std::vector<Shadow> result;
  if (__asan_get_shadow_mapping != nullptr) {
    std::size_t scale = 0;
    std::size_t offset = 0;
    __asan_get_shadow_mapping(&scale, &offset);
    result.push_back({offset, offset + ((std::uintptr_t{1} << 47) >> scale)});
  }
  if (__tsan_init != nullptr) {
    // tsan_platform.h, the x86-64 mapping: the program's own memory is low, at 0x55.. to 0x56.., and from 0x7b.. on.
    result.push_back({0x010000000000, 0x550000000000});
    result.push_back({0x568000000000, 0x7b0000000000});
  }
  return result;
}

MemoryKind kind_of(std::string_view permissions, std::string_view name) {
  if (permissions.substr(0, 3) == "---") return MemoryKind::unmapped;
  if (name == "[heap]") return MemoryKind::heap;
  if (name.starts_with("[stack")) return MemoryKind::stack;
  const bool anonymous =
      name.empty() || name.starts_with("[anon") || name.starts_with("/anon_hugepage") || name.starts_with("/dev/zero");
  return anonymous && permissions.substr(0, 2) == "rw" ? MemoryKind::heap : MemoryKind::other;
}

// One line of /proc/self/maps: "begin-end permissions offset device inode   name", as in proc(5).
Region to_region(std::string_view line) {
  const auto next_field = [&line] {
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    const std::string_view field = line.substr(0, line.find(' '));
    line.remove_prefix(field.size());
    return field;
  };
  const std::string range(next_field());
  const std::string_view permissions = next_field();
  for (int skipped = 0; skipped < 3; ++skipped) next_field();
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));

  char* dash = nullptr;
  Region region;
  region.begin = std::strtoull(range.c_str(), &dash, 16);
  region.end = *dash == '-' ? std::strtoull(dash + 1, nullptr, 16) : region.begin;
  region.kind = kind_of(permissions, line);
  return region;
}

// Threads: all under one mutex; the callers are the checks of closures when a job is submitted.
class MemoryMap {
 public:
  MemoryKind find(std::uintptr_t address) {
    const std::lock_guard lock(mutex_);
    if (const Region* region = find_cached(address)) return kind(*region, address);
    read();
    const Region* region = find_cached(address);
    return region == nullptr ? MemoryKind::unmapped : kind(*region, address);
  }

 private:
  const Region* find_cached(std::uintptr_t address) const {
    const auto after = std::upper_bound(regions_.begin(), regions_.end(), address,
                                        [](std::uintptr_t a, const Region& region) { return a < region.begin; });
    if (after == regions_.begin()) return nullptr;
    const Region& candidate = *std::prev(after);
    return address < candidate.end ? &candidate : nullptr;
  }

  // Images are asked first: the kernel joins a library's .bss with a heap that happens to lie behind it in one line.
  MemoryKind kind(const Region& region, std::uintptr_t address) const {
    return image_table_->find(address) != nullptr ? MemoryKind::image : region.kind;
  }

  void read() {
    image_table_ = &images().refreshed();
    const std::string text = read_file(system_runtime().files(), "/proc/self/maps");
    regions_.clear();
    std::string_view rest = text;
    while (!rest.empty()) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(line.size() + 1, rest.size()));
      const Region region = to_region(line);
      // What cannot be accessed is not kept, so that it is looked up anew: malloc reserves its arenas so and opens them
      // as they grow.
      if (region.begin < region.end && region.kind != MemoryKind::unmapped) regions_.push_back(region);
    }
    std::sort(regions_.begin(), regions_.end(), [](const Region& a, const Region& b) { return a.begin < b.begin; });
  }

  std::mutex mutex_;
  std::vector<Region> regions_;
  const ImageTable* image_table_ = nullptr;
};

bool is_shadow(std::uintptr_t address) {
  static const auto* const all = new std::vector<Shadow>(shadows());
  return std::any_of(all->begin(), all->end(),
                     [&](const Shadow& shadow) { return address >= shadow.begin && address < shadow.end; });
}

}  // namespace

const Image* image_of(const void* address) {
  const auto number = reinterpret_cast<std::uintptr_t>(address);
  const Image* image = images().current().find(number);
  return image != nullptr ? image : images().refreshed().find(number);
}

const Image* image_with_build_id(std::uint64_t build_id) {
  const auto find = [build_id](const ImageTable& table) -> const Image* {
    for (const Image* image : table.images) {
      if (image->build_id == build_id) return image;
    }
    return nullptr;
  };
  const Image* image = find(images().current());
  return image != nullptr ? image : find(images().refreshed());
}

MemoryKind memory_kind(std::uintptr_t address) {
  // Most captured words are small integers or floating point numbers. They lie below what Linux ever maps
  // (vm.mmap_min_addr) or above what it gives to programs, and must not cost a reading of the map each.
  constexpr std::uintptr_t lowest = 1 << 16;
  constexpr std::uintptr_t highest = std::uintptr_t{1} << 47;
  if (address < lowest || address >= highest || is_shadow(address)) return MemoryKind::unmapped;
  static auto* const map = new MemoryMap;
  return map->find(address);
}

}  // namespace sluice
