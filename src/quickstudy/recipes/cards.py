"""The published results: what differs from the defaults of the tasks and the method, and the figure to expect."""

from quickstudy.recipes.compose import Card
from quickstudy.recipes.methods.mktn import BRADTKE
from quickstudy.recipes.methods.rl2 import WANG

ROTHFUSS = "Rothfuss, Lee, Clavera, Asfour, Abbeel 2019, ProMP: Proximal Meta-Policy Search, ICLR"
ES = "Song et al. 2020, ES-MAML: Simple Hessian-Free Meta Learning, ICLR"
CORNERS = "one corner or two of four, of the 26.4 of walking straight: 11.6 by back-propagation, 7.4 by evolution"
CENTROID = "the 71 % of the nearest centroid of its features (no paper has this)"
VINYALS_SPLIT = {
    "meta_steps": 9000, "learning_rate": 3e-3, "split": "vinyals", "pool": True, "shift": 2.0, "warp": 0.15,
}  # fmt: skip
FIVE = {"learning_rate": 2e-3}  # two cores have smaller meta-steps than the papers, of a larger rate
LOOPS = {"test_steps": (0, 1, 3), **FIVE}
SMALL_MAZES = {"size": 5, "wind": 0.3, "episode_length": 20, "trial_length": 100}
OWN_MAZES = {"size": 9, "wind": 0.0, "layout": -1, "episode_length": 200, "trial_length": 1000}

CARDS = {
    # Sine waves
    "sinusoid-maml": Card(
        "sinusoid", "maml",
        "MAML on 5-shot sinusoid regression: the paper's protocol, inner gradients cut",
        "query MSE after 1/5/10 steps 0.59/0.36/0.33, the paper 0.67/0.38/0.35 (70,000 meta-steps, 20 seconds)",
    ),
    "sinusoid-fomaml": Card(
        "sinusoid", "fomaml",
        "first-order MAML: the inner gradients are taken for constants",
        "query MSE after 10 steps 0.34 (MAML's paper gives none for sinusoids)",
        fields={"inner_steps": 1},
    ),
    "sinusoid-imaml": Card(
        "sinusoid", "imaml",
        "implicit MAML: the gradient at the minimum of the regularised inner problem",
        "query MSE below 1 after 32 steps (the paper has no sinusoids)",
        fields={
            # Any way to the minimum will do, and plain steps diverge in time.
            "inner_optimizer": "adam", "inner_steps": 32, "test_steps": (0, 1, 5, 10, 32), "meta_steps": 8000,
            "strength": 20.0, "solver_steps": 5, "final_rate": 0.05, "clip_norm": 1.0,
        },
    ),
    "sinusoid-anil": Card(
        "sinusoid", "anil",
        "ANIL: only the last layer adapts",
        "query MSE after 10 steps 0.62 (the ANIL paper gives none for this setting)",
    ),
    "sinusoid-cavia": Card(
        "sinusoid", "cavia",
        "CAVIA: only a context vector beside the input adapts",
        "at 10 shots 0.19 ± 0.02 after one step (the paper)",
        fields={"context_size": 5, "inner_steps": 1},
    ),
    # Rates that are learned grow by what is cut: 0.42 after one step with an inner clip of 30, 0.31 without.
    "sinusoid-meta-sgd": Card(
        "sinusoid", "meta-sgd",
        "Meta-SGD: a learned rate for every weight",
        "query MSE after one step 0.31 (MAML has 0.59)",
    ),
    "sinusoid-reptile": Card(
        "sinusoid", "reptile",
        "the same learner under the Reptile objective",
        "query MSE 0.98/0.40/0.33 after 1/5/10 steps, 3.3 before; the paper shows curves only",
        fields={
            # 50 points a task, as in the paper: Reptile adapts on all of them while training.
            "inner_steps": 32, "queries": 45, "meta_steps": 15_000, "cores": 0, "optimizer": "adam",
            "learning_rate": 1e-3, "final_rate": 1.0, "test_steps": (0, 1, 5, 10),
        },
    ),
    "sinusoid-pretrained": Card(
        "sinusoid", "pretrained",
        "the baseline: one network trained on all tasks together, then fine-tuned",
        "query MSE after 1/5/10 steps 2.41/2.23/2.19 (the MAML paper)",
    ),
    "sinusoid-learned-optimizer": Card(
        "sinusoid", "learned-optimizer",
        "a learned optimiser: the update rule alone is learned, and trains networks drawn afresh",
        "query MSE 0.168 after 60 steps, twice as many as in training, where tuned Adam has 0.197",
        fields={
            "shots": 40, "queries": 40, "meta_steps": 4000, "cores": 0, "test_steps": (0, 5, 10, 20, 30, 60),
        },
    ),
    "sinusoid-mktn": Card(
        "sinusoid", "mktn",
        "MKTN on 5-shot sinusoid regression: a shared network, and a ridge regression on its features",
        "query MSE 0.012 after 3,000 meta-steps, where MAML has 0.33 after 70,000 and ten inner steps",
        fields={"meta_steps": 3000, "meta_batch": 32, "cores": 0, "inner_rate": 0.1},
    ),
    # Omniglot
    "omniglot-maml": Card(
        "omniglot", "maml",
        "MAML on Omniglot, 5-way 1-shot, conv-4",
        "accuracy 98.7 ± 0.4 % in the paper, with --normalise transductive and 60,000 meta-steps of 32 tasks",
        fields={"meta_steps": 14_000, **LOOPS},
    ),
    # After a single inner step the query's gradient says little of what the start is to become.
    "omniglot-fomaml": Card(
        "omniglot", "fomaml",
        "first-order MAML on Omniglot",
        "accuracy 98.3 ± 0.5 % in the paper, transductive",
        fields={"meta_steps": 9000, **FIVE, "test_steps": (0, 4)},
    ),
    "omniglot-imaml": Card(
        "omniglot", "imaml",
        "implicit MAML on Omniglot",
        "95.0 % after 4,000 meta-steps with --normalise transductive --shift 2 --warp 0.15, 96.0 after 12,000; 99.16 ± "
        "0.35 % in the paper",
        fields={**FIVE, "test_steps": (0, 8)},
    ),
    "omniglot-anil": Card(
        "omniglot", "anil",
        "ANIL on Omniglot: only the last layer adapts",
        "the paper has 20-way alone: 96.2 ± 0.5 % at 1 shot",
        fields=LOOPS,
    ),
    "omniglot-cavia": Card(
        "omniglot", "cavia",
        "CAVIA on Omniglot: only a context adapts, which scales and shifts the third block's channels",
        "the paper has mini-ImageNet alone (about 50 % at 5-way 1-shot)",
        fields={**FIVE, "test_steps": (0, 2)},
    ),
    "omniglot-meta-sgd": Card(
        "omniglot", "meta-sgd",
        "Meta-SGD on Omniglot: a learned rate for every weight",
        "accuracy 99.53 ± 0.26 % in the paper",
        fields={**FIVE, "test_steps": (0, 1)},
    ),
    "omniglot-reptile": Card(
        "omniglot", "reptile",
        "Reptile on Omniglot: the same learner under the Reptile objective, minibatches inside",
        "transductive 92.2 % here, with images warped 93.8; the paper 97.68 after 100,000 meta-steps",
        fields={"meta_steps": 40_000, "meta_batch": 5},  # with one shot ten examples of a class
    ),
    "omniglot-meta-lstm": Card(
        "omniglot", "meta-lstm",
        "Meta-LSTM on Omniglot: an LSTM over gradient and loss is the update, the start its cell state",
        "the paper has mini-ImageNet alone (43.44 % at 5-way 1-shot)",
        fields={"meta_steps": 4000, "meta_batch": 4, "filters": 32, **FIVE, "test_steps": (0, 5)},
    ),
    "omniglot-task-memory": Card(
        "omniglot", "task-memory",
        "MAML's steps on dense layers whose start a memory of past tasks corrects",
        "no paper has it; its own long run is the figure to expect",
        fields={"test_steps": (0, 1, 3)},
    ),
    "omniglot-proto": Card(
        "omniglot", "proto",
        "prototypical networks on Omniglot, trained 60-way",
        "accuracy 98.8 % at 5-way 1-shot, 96.0 % at 20-way 1-shot in the paper",
        fields={**VINYALS_SPLIT, "training_ways": 60},
    ),
    "omniglot-matching": Card(
        "omniglot", "matching",
        "Matching Networks on Omniglot: cosine attention over the support set",
        "accuracy 98.1 % at 5-way 1-shot, 93.8 % at 20-way 1-shot in the paper",
        fields={**VINYALS_SPLIT, "meta_batch": 1},
    ),
    "omniglot-snail": Card(
        "omniglot", "snail",
        "attention over the labelled examples, after SNAIL: no convolution over time, no order",
        "accuracy 99.07 ± 0.16 % at 5-way 1-shot, 99.78 ± 0.09 % at 5 shots in the paper",
    ),
    "omniglot-meta-networks": Card(
        "omniglot", "meta-networks",
        "Meta Networks on Omniglot: fast weights written from gradients, one set an example",
        "accuracy 97.2 % at 5-way 1-shot (98.95 % in the paper)",
        fields={"meta_steps": 16_000, "shift": 2.0, "warp": 0.15, "learning_rate": 2e-3},
    ),
    "omniglot-mann": Card(
        "omniglot", "mann",
        "MANN on streams of Omniglot characters: an external memory written where least is used",
        "accuracy 36.4 / 82.8 / 91.0 / 94.9 / 98.1 % at the 1st / 2nd / 3rd / 5th / 10th instance in the paper",
    ),
    "omniglot-lstm": Card(
        "omniglot", "lstm",
        "an LSTM on the same streams: all it remembers is its state",
        "accuracy 29 / 84 / 90 / 92 / 92 % at the 1st / 2nd / 3rd / 5th / 10th instance (--meta-steps 3000); "
        "24.4 / 49.5 / 55.3 / 63.6 / 62.5 % in the paper",
    ),
    # CLINC150
    "clinc150-proto": Card("clinc150", "proto", "prototypical networks on intents of unseen domains", CENTROID),
    "clinc150-matching": Card("clinc150", "matching", "Matching Networks on intents of unseen domains", CENTROID),
    "clinc150-maml": Card(
        "clinc150", "maml",
        "MAML on intents of unseen domains",
        "the 71 % of logistic regression on its features (no paper has this)",
    ),
    # Walks in the plane
    "navigation-maml": Card(
        "navigation", "maml",
        "MAML-RL on 2-D navigation: an agent that learns where its goal is from 20 tries",
        "about 86 % of the gap from standing still (-38.1) to the optimum (-0.5) closed after one adaptation, 95 % "
        "after three",
    ),
    "navigation-es-maml": Card(
        "navigation", "es-maml",
        "the same MAML learner, improved by evolution instead of back-propagation",
        "64 % of the gap closed after one adaptation (--meta-steps 630 --meta-batch 10 --adaptations 1), in the time "
        "that navigation-maml takes; ES-MAML's paper has other tasks",
        ES,
        {"critic": 0.0},
    ),
    "navigation-reptile": Card(
        "navigation", "reptile",
        "Reptile on 2-D navigation: the start moves to where policy gradients lead in each task",
        "-37.4 before and -24.8, -22.6, -24.4 after 1, 2, 3 adaptations (--meta-steps 300); MAML is far better",
    ),
    "navigation-rl2": Card(
        "navigation", "rl2",
        "RL² on 2-D navigation: finds its goal within an episode, by memory alone",
        "return -5.6 over 5 episodes (optimum -2.5); -283 over 20 on shifted goals (-62)",
        "Duan et al. 2016, RL²: Fast Reinforcement Learning via Slow Reinforcement Learning",
    ),
    "navigation-varibad": Card(
        "navigation", "varibad",
        "VariBAD on 2-D navigation: a belief over where the goal is, and a policy that acts on it",
        "return -9.3 over 5 episodes (RL² -5.6, optimum -2.5), after as many trials as RL²",
    ),
    "navigation-mpo": Card(
        "navigation", "mpo",
        "MPO on 2-D navigation: a policy generated from memory, corrected by policy gradients",
        "return -4.9 over 5 episodes (optimum -2.5); -138 over 20 on shifted goals (-62)",
        fields={"meta_steps": 1500},
    ),
    "corners-maml": Card(
        "corners", "maml",
        "MAML-RL on sparse navigation: the goal is one of four corners and rewarded only close to it",
        CORNERS,
        ROTHFUSS,
        # What is sampled before adaptation is worth what it finds.
        {"meta_steps": 8000, "learning_rate": 1e-3, "credit": "dice"},
    ),
    "corners-es-maml": Card(
        "corners", "es-maml",
        "ES-MAML on the same tasks: evolution scores whole trials, exploration included",
        CORNERS,
        ES,
        {"meta_steps": 150, "meta_batch": 8, "critic": 0.0, "learning_rate": 5e-3},
    ),
    # Bandits
    "bandit-rl2": Card(
        "bandit", "rl2",
        "RL² on Bernoulli bandits: a recurrent agent that explores, then exploits",
        "10 pulls of 5 arms: at least 6.62 of the optimum 6.660; 100 pulls "
        "(--pulls 100 --value 0.02 --gae-lambda 0.95 --meta-batch 1024 --learning-rate 3e-3): at least 77.7",
    ),
    "correlated-bandit-rl2": Card(
        "correlated-bandit", "rl2",
        "RL² on two arms that pay with p and 1 − p: each arm is informative of the other",
        "100 pulls, p uniform: 73.8, as the Bayes-optimal policy; the Gittins index (for independent arms) 73.5",
        WANG,
    ),
    "informative-bandit-rl2": Card(
        "informative-bandit", "rl2",
        "RL² on eleven arms, of which one pays least and reveals which pays most: it is best pulled first",
        "5 pulls: 18.6 of the Bayes-optimal 20.55, searching 11.4; the informative arm is always pulled first",
        WANG,
    ),
    "two-step-rl2": Card(
        "two-step", "rl2",
        "RL² on the two-step task: an agent trained without a model that behaves as if it had one",
        "100 choices: 70.4 where the optimum has 70.5 and a model-free agent 65.4; it stays as a model-based one",
        WANG,
    ),
    # Tabular MDPs
    # A GRU's memory of 64 numbers stops at 123.
    "mdp-rl2": Card(
        "mdp", "rl2",
        "RL² on random tabular MDPs: explore in the first episodes, exploit in the last",
        "10 episodes: total reward 159 (the paper's RL² 156.2)",
        fields={"cell": "attention", "memory_size": 32, "final_rate": 0.03, "test_tasks": 2000},
    ),
    "mdp-psrl": Card(
        "mdp", "psrl",
        "posterior sampling on random tabular MDPs; nothing is meta-trained",
        "10 episodes: 134 to 135 (the RL² paper's: 138.1)",
    ),
    "mdp-r-max": Card(
        "mdp", "r-max",
        "R-MAX on small random MDPs: optimism until every pair is known; nothing is meta-trained",
        "close to the optimal return an episode once the m·S·A unknown visits are over",
        fields={"states": 4, "actions": 3, "episodes": 200},
    ),
    "mdp-mml": Card(
        "mdp", "mml",
        "meta-model learning on random tabular MDPs, where the exact posterior is known",
        "10 episodes: within 2 of posterior sampling with the exact prior, about 133",
    ),
    "mdp-lpg": Card(
        "mdp", "lpg",
        "a loss learned in mazes, in the place of the policy gradient's, tested on random MDPs",
        "195 after 300 meta-steps where tuned REINFORCE has 621, and an agent that does not learn 0",
        fields={"train_in": "maze", "states": 25, "actions": 4, "mean_reward": 0.0},
    ),
    "kernels-rl2": Card(
        "kernels", "rl2",
        "RL² on MDPs that mix shared kernels, the model-free baseline of kernels-mml",
        "10 episodes: 178 after 1.6 M steps, as many as kernels-mml has; 193 after 3,000 meta-steps",
    ),
    "kernels-mpo": Card(
        "kernels", "mpo",
        "MPO on MDPs that mix shared kernels",
        "10 episodes: 190 (RL² 178); 40 of the shifted family: 782 (MAML-RL 768, RL² 705)",
        # In training scatter stands in for corrections, and these are next to nothing: made in earnest, after ten steps
        # of an untrained policy, they cost eight of 190 inside.
        fields={"test_ridge": 1.0},
    ),
    "kernels-mml": Card(
        "kernels", "mml",
        "meta-model learning on MDPs that mix shared kernels: plan in a draw of a learned, adapting prior",
        "10 episodes: 196; planning in the mean model 209; from scratch 148, one model 162, the task known 225",
        fields={"replan": True},
    ),
    "kernels-mktn": Card(
        "kernels", "mktn",
        "MKTN on MDPs that mix shared kernels: what they share is known, what they mix is not",
        "10 episodes: 187 (RL² 179, K alone 140, from scratch 138, the task known 225; half a minute)",
        BRADTKE,
        {"discount": 0.9, "temperature": 0.1},
    ),
    # Grid worlds
    "grid-rl2": Card(
        "grid", "rl2",
        "RL² on 5×5 grids with a hidden goal: look for it, then go there at once",
        "4.03, 10.67, 11.08 and 11.08 in the four episodes; the best explorer has 4.04, 11.08, 11.08 and 11.08",
    ),
    "grid-varibad": Card(
        "grid", "varibad",
        "VariBAD on 5×5 grids with a hidden goal: a belief over goals, and a policy that acts on it",
        "3.7, 9.0, 11.0 and 11.0 in the four episodes; the best explorer has 11.14 from the second on",
        # Until the belief distinguishes goals, the policy must keep its entropy.
        fields={"meta_steps": 3000, "entropy": 0.02, "curriculum": ()},
    ),
    "maze-rl2": Card(
        "maze", "rl2",
        "RL² in the mazes of maze-mktn: the baseline for it",
        "18 goals in 200 steps, where maze-mktn has 14",
    ),
    "maze-mktn": Card(
        "maze", "mktn",
        "MKTN in one maze with a goal and a wind of its own in each task: the ways are known, where to is not",
        "14 goals in 200 steps, where Dyna-Q from scratch has 7 and K alone 6 (2 minutes)",
        # The knowledge begins near indifference, so that every goal is found.
        fields={"initial_scale": 0.01},
    ),
    "maze-mpo": Card(
        "maze", "mpo",
        "MPO in mazes of one layout, where goal and wind differ",
        "11.5 goals in 100 steps, level with RL² (MAML-RL 7.1); no method generalises to another layout",
        # A goal pays for the steps that led there.
        fields={"meta_steps": 1500, **SMALL_MAZES, "correction_discount": 0.9, "correction_ridge": 1.0},
    ),
    "maze-mml": Card(
        "maze", "mml",
        "meta-model learning in mazes of one layout, where goal and wind differ",
        "11.0 goals in 100 steps; the family's mean as a prior 10.1, one model for all mazes 4.5, Dyna-Q 3.4",
        # A maze has one goal, and kinds represent that: a reward makes every other cell less likely. The mean of
        # all kinds earns a little more than a draw of one. A plan made anew drops a goal as soon as it is refuted.
        # Where no goal is met for long, nothing but chance brings it back. A table of 26 outcomes has far to go from a
        # uniform one: hence the learning rate.
        fields={
            "meta_batch": 32, "meta_steps": 1000, "learning_rate": 0.012, "kinds": 32, "spread": 0.0, "replan": True,
            "epsilon": 0.1, "discount": 0.95, **SMALL_MAZES,
        },
    ),
    "maze-q-learning": Card(
        "maze", "q-learning",
        "Q-learning in mazes, its rates and initial values evolved",
        "43 goals in 1,000 steps, where the same learner tuned by hand has 25",
        fields=OWN_MAZES,
    ),
    "maze-dyna-q": Card(
        "maze", "dyna-q",
        "Dyna-Q in mazes: Q-learning that also plans in what it remembers, evolved",
        "69.5 goals in 1,000 steps; tuned by hand 68.5, where Q-learning has 23.5",
        fields={**OWN_MAZES, "meta_steps": 100, "test_tasks": 4000},  # what is left to win is small
    ),
    "maze-lpg": Card(
        "maze", "lpg",
        "a loss learned on random MDPs, in the place of the policy gradient's, tested in mazes",
        "4 goals after 300 meta-steps where tuned REINFORCE has 131: this way it does not carry over",
        fields={"train_in": "mdp", "size": 5, "wind": 0.0, "layout": -1, "episode_length": 25},
    ),
    # Classic control
    "cartpole-rl2": Card(
        "cartpole", "rl2",
        "RL² on CartPole with random pole length and force",
        "489 steps an episode, in trials of 500; 196 after 300 meta-steps",
        fields={"meta_steps": 1500},
    ),
    "acrobot-rl2": Card(
        "acrobot", "rl2",
        "RL² on Acrobot with random masses and a random lower link",
        "-84.5 an episode after 400 meta-steps, from the first episode on",
    ),
    "pendulum-rl2": Card(
        "pendulum", "rl2",
        "RL² on Pendulum with random mass",
        "-603 in three episodes: about -200 in each, from the first on",
    ),
    **{
        f"cartpole-{method}": Card(
            "cartpole", method,
            f"{title} on CartPole from scratch; nothing is meta-trained",
            "a return of at least 475 an episode at the end",
        )
        for method, title in (
            ("reinforce", "REINFORCE"), ("a2c", "the advantage actor-critic"), ("ppo", "PPO"), ("dqn", "DQN"),
        )
    },
    # A fiftieth of the steps, in which cartpole-dqn's own rates learn little.
    "cartpole-es-dqn": Card(
        "cartpole", "es-dqn",
        "DQN in short trials on CartPole with random pole and force, its rate, discount and ε evolved",
        "196 an episode, as the best of a grid has; the rate, discount and ε it begins with have 44",
        fields={
            "vary": True, "meta_steps": 60, "meta_batch": 4, "test_tasks": 100, "steps": 10_000, "capacity": 10_000,
            "population": 16, "learning_rate": 0.1, "final_rate": 0.0,
        },
    ),
    "cartpole-meta-gradient": Card(
        "cartpole", "meta-gradient",
        "an actor-critic whose discount, GAE λ, rate and loss weights are learned by meta-gradients",
        "level with where it began and with the best of the grid: 305, 307 and 321 by 12 agents, who differ by more",
    ),
    **{
        f"pendulum-{method}": Card(
            "pendulum", method,
            f"{method.upper()} on Pendulum from scratch; nothing is meta-trained",
            "a return of at least -200 an episode at the end",
        )
        for method in ("ddpg", "td3")
    },
    "xland-rl2": Card(
        "xland", "rl2",
        "RL² on XLand-MiniGrid: rulesets that are not observed, 9×9 cells",
        "return 2.4 in trials of 512 steps, still rising, and no faster at their end than at first",
        "Nikulin et al. 2024, XLand-MiniGrid: Scalable Meta-Reinforcement Learning Environments in JAX",
    ),
}  # fmt: skip
